"""Bytes that break a parser of the doors are looked for, by hand: atheris learns from what each input reaches.

python -m tests.doors.fuzz PARSER [--seconds 600] [--folder FOLDER]
with lines, resp, redis, datagrams, at_most_once, patterns, tokens or uploads

`uv pip install --group fuzz`, or pip's since 25.1, installs atheris (Python 3.11 to 3.13 on Linux). What is held
true is in fuzzed.py. What breaks it lies in the folder as PARSER-crash-* or PARSER-timeout-*, and `--again FILE` does
it once more; what reached new code lies in its corpus, from which a later run goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

INPUT_SECONDS_MAX = 5  # the longest takes a hundredth of this; what is exponential takes for ever
MEMORY_MIB_MAX = 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.doors.fuzz")
    parser.add_argument("parser", metavar="PARSER")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help=".fuzz unless told")
    parser.add_argument("--again", type=Path, help="only this input")
    asked = parser.parse_args()
    fuzz(asked.parser, asked.seconds, asked.folder, asked.again)


def fuzz(parser: str, seconds: int, folder: Path, again: Path | None) -> None:
    """Feed `parser`, or do `again` what is in that file. Ends the process."""
    import atheris  # not for whom only collects the tests; and what is instrumented must not have been imported

    with atheris.instrument_imports(include=["eau2.doors", "eau2.values.key"]):
        from tests.doors import fuzzed
    if parser not in fuzzed.PARSERS:
        sys.exit(f"there is no parser {parser!r}: {' '.join(fuzzed.PARSERS)}")
    corpus = folder / parser
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(fuzzed.SEEDS[parser]):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-artifact_prefix={folder}/{parser}-", f"-timeout={INPUT_SECONDS_MAX}"]
    options += [f"-rss_limit_mb={MEMORY_MIB_MAX}", "-max_len=4096", "-print_final_stats=1"]
    options += [str(again)] if again else [f"-max_total_time={seconds}", str(corpus)]
    check = fuzzed.PARSERS[parser]
    with fuzzed.small_limits():
        atheris.Setup([sys.argv[0], *options], lambda data: check(bytes(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
