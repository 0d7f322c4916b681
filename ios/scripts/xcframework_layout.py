#!/usr/bin/env python3
"""Puts an XCFramework together where there is no Xcode: a folder for each kind of system, and a list of them.

usage: xcframework_layout.py BUILD OUT.xcframework

BUILD holds headers/ and, for each slice, SLICE/libhotset_ffi.a.
"""

import plistlib
import shutil
import sys
from pathlib import Path

LIBRARY = "libhotset_ffi.a"

# Folder in BUILD, then what Xcode calls it: platform, variant, architectures.
SLICES = [
    ("ios", "ios", None, ["arm64"]),
    ("simulator", "ios", "simulator", ["arm64", "x86_64"]),
    ("macos", "macos", None, ["arm64", "x86_64"]),
]


def main(build: Path, out: Path) -> None:
    entries = []
    for folder, platform, variant, architectures in SLICES:
        identifier = "-".join(filter(None, [platform, "_".join(architectures), variant]))
        shutil.copytree(build / "headers", out / identifier / "Headers")
        shutil.copy(build / folder / LIBRARY, out / identifier / LIBRARY)
        entry = {
            "BinaryPath": LIBRARY,
            "HeadersPath": "Headers",
            "LibraryIdentifier": identifier,
            "LibraryPath": LIBRARY,
            "SupportedArchitectures": architectures,
            "SupportedPlatform": platform,
        }
        if variant:
            entry["SupportedPlatformVariant"] = variant
        entries.append(entry)
    info = {"AvailableLibraries": entries, "CFBundlePackageType": "XFWK", "XCFrameworkFormatVersion": "1.0"}
    (out / "Info.plist").write_bytes(plistlib.dumps(info))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
