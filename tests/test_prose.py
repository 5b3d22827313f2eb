"""tools/check_prose.py finds faulty prose and accepts plain English."""

import pytest

from tools import check_prose

GOOD = """
'''Instance normalization, at most once per step.'''

# The kernels need at least one value per channel.
MAX_STEPS = 3


class Mean:
    '''A running mean.'''

    @property
    def value(self):
        '''The current mean.'''

    def add(self, value):
        '''Add a value.

        Args:
            value: Value of the next sample.
        '''

    def _update(self):
        pass
"""


def faults_in(tmp_path, text, name="module.py"):
    path = tmp_path / name
    path.write_text(text)
    return list(check_prose.faults_of(path))


def test_a_good_file_passes(tmp_path):
    assert faults_in(tmp_path, GOOD) == []


# prose: off
@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("# one output an image", "per"),
        ("# run twice a step", "per"),
        ("least_size = 3", "min_ or max_"),
        ("MOST_STEPS = 3", "min_ or max_"),
        ("# uninitialised memory", "American"),
        ("# a grey image", "American"),
        ("# layers, of which one is kept", "whose"),
        ("# it is to be called once", "must be"),
        ("# used in place of the mean", "instead of"),
        ("# where they lie", "is"),
        ("# equal but for rounding", "except for"),
        ("# networks of others", "third-party"),
        ("# next to it, and beside the mean", "in addition to"),
        ("# null where it is not wanted", "needed"),
        ("# Whether the map is dense.", "state what"),
        ("        slope: Of the activation.", "full phrase"),
    ],
)
def test_a_faulty_line_is_found(tmp_path, line, advice):
    (fault,) = faults_in(tmp_path, f"first line\n{line}\n", "text.md")
    assert "text.md:2: " in fault
    assert advice in fault


# prose: on


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'''What a module has.'''", ":1: docstring of the module starts with 'What'"),
        ("\nclass C:\n    '''How it works.'''", ":2: docstring of C starts with 'How'"),
        ("def f():\n    '''The mean.'''", ":1: docstring of f starts with 'The': start with a verb"),
        ("async def f():\n    '''Returns the mean.'''", ":1: docstring of f starts with 'Returns': start with a verb"),
    ],
)
def test_a_faulty_docstring_is_found(tmp_path, text, message):
    (fault,) = faults_in(tmp_path, text)
    assert message in fault


def test_functions_of_tests_have_docstrings_of_any_form(tmp_path):
    (tmp_path / "tests").mkdir()
    assert faults_in(tmp_path, "def test_f():\n    '''The mean is exact.'''", "tests/test_f.py") == []


def test_lines_can_be_exempt(tmp_path):
    text = "grey = 1  # prose: allow\n# prose: off\ngrey = 2\n# prose: on\ngrey = 3\n"
    (fault,) = faults_in(tmp_path, text)
    assert ":5: " in fault


def test_folders_are_searched_for_known_files(tmp_path, monkeypatch, capsys):
    for name in ("a.py", "b.md", "c.bin", "LICENSE.md"):
        (tmp_path / name).write_text("behaviour = 1\n")  # prose: allow
    monkeypatch.setattr("sys.argv", ["check_prose", str(tmp_path)])
    assert check_prose.main() == 1
    assert capsys.readouterr().out.count("use American spelling") == 2


def test_the_checker_passes_its_own_check():
    for name in ("tools/check_prose.py", "tests/test_prose.py"):
        assert list(check_prose.faults_of(check_prose.ROOT / name)) == []
