"""The run folder and the files that a run resumes from."""
