import io
import json
from dataclasses import dataclass

import pytest

from eau2.cli import main


@dataclass(frozen=True)
class Ran:
    """What one call of `eau2` did."""

    code: int
    out: bytes
    error: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self):
        assert self.code in (0, 1), self.error
        return json.loads(self.out)


@pytest.fixture
def eau2(capfdbinary, tmp_path, monkeypatch):
    """Run `eau2` in this process, in an empty directory, its output a pipe of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAU2_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments, stdin=b"") -> Ran:
        capfdbinary.readouterr()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, error = capfdbinary.readouterr()
        assert b"Traceback" not in out + error
        return Ran(stop.value.code, out, error.decode())

    return run


@pytest.fixture
def trips(eau2, tmp_path):
    """A frame under "trips": id 0 to 99, a fare, and a vendor that is missing in every third row."""
    rows = "".join(f"{i},{i / 4},{'abc'[i % 3] if i % 3 else ''}\n" for i in range(100))
    (tmp_path / "trips.csv").write_text("id,fare,vendor\n" + rows)
    assert eau2("load", "trips", "trips.csv").code == 0
    return "trips"
