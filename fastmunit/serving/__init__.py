"""Serving of a trained model over HTTP: uploads, a queue with one worker, and the limits of both."""
