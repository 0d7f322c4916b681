#!/usr/bin/env python3
"""Whether native libraries load on devices with pages of 16 KiB: every LOAD segment must be aligned to that, and lie at an address that agrees with
its place in the file. Usage: check_pages.py LIBRARY...   (READELF: the readelf to ask, such as the NDK's llvm-readelf)"""

import os
import subprocess
import sys

PAGE = 16 * 1024


def unfit(path):
    """Why the library at `path` does not load there; nothing if it does."""
    table = subprocess.run([os.environ.get("READELF", "readelf"), "-lW", path], check=True, capture_output=True, text=True).stdout
    loads = [line.split() for line in table.splitlines() if line.split()[:1] == ["LOAD"]]
    if not loads:
        return ["has no LOAD segment"]
    problems = []
    for _, offset, address, *rest in loads:
        alignment = int(rest[-1], 16)
        if alignment % PAGE:
            problems.append(f"the segment at {offset} is aligned to {alignment} bytes, not {PAGE}")
        elif (int(address, 16) - int(offset, 16)) % PAGE:
            problems.append(f"the segment at {offset} is to be loaded at {address}, which no page of {PAGE} bytes allows")
    return problems


def main(paths):
    problems = [f"{path}: {problem}" for path in paths for problem in unfit(path)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
