#!/usr/bin/env python3
"""What can be checked of an Android project without Android's tools: that its files are well-formed and agree with each other.
Usage: shapes.py ANDROID_FOLDER HOST_LIBRARY"""

import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as xml
from pathlib import Path

FRAMEWORK = "/usr/share/android-framework-res/framework-res.apk"
ANDROID = "{http://schemas.android.com/apk/res/android}"

root = Path(sys.argv[1])
library = Path(sys.argv[2])
sys.dont_write_bytecode = True
sys.path.insert(0, str(root / "scripts"))
from check_pages import unfit  # noqa: E402

catalogue = tomllib.loads((root / "gradle/libs.versions.toml").read_text())
versions = catalogue["versions"]
modules = {name: (root / name / "build.gradle.kts").read_text() for name in ("hotset", "sample")}
rules = (root / "hotset/consumer-rules.pro").read_text()
assemble = (root / "scripts/assemble").read_text()
bindings = tomllib.loads((root / "../runtime/ffi/bindings.toml").read_text())["crates"]["hotset_ffi"]["bindings"]["kotlin"]


def sources(folder):
    return sorted((root / folder).rglob("*.kt"))


def generated(path):
    return path.parent.name == "ffi"


def xml_is_well_formed():
    files = [f for f in root.rglob("*.xml") if "build" not in f.parts]
    assert files
    for file in files:
        xml.parse(file)


def packages_agree_with_folders():
    for module in ("hotset/src/main/kotlin", "sample/src/main/kotlin", "testing/tests"):
        for file in sources(module):
            package = ".".join(file.parent.relative_to(root / module).parts)
            assert re.search(rf"^package {re.escape(package)}$", file.read_text(), re.M), file


def bindings_are_where_the_rules_and_the_library_say():
    package = bindings["package_name"]
    file = root / "hotset/src/main/kotlin" / package.replace(".", "/") / f"{bindings['cdylib_name']}.kt"
    assert file.exists(), file
    assert f"-keep class {package}.** {{ *; }}" in rules
    assert "-keep class com.sun.jna.** { *; }" in rules and "-keep class * implements com.sun.jna.** { *; }" in rules
    assert library.name == f"lib{bindings['cdylib_name']}.so", library
    assert f"lib{bindings['cdylib_name']}.so" in assemble


def only_the_border_knows_the_bindings():
    """What is generated stays out of the API: no public signature names it."""
    for file in sources("sample/src/main/kotlin"):
        assert "dev.hotset.ffi" not in file.read_text(), file
    for file in sources("hotset/src/main/kotlin"):
        if not generated(file):
            for line in file.read_text().splitlines():
                assert not (line.lstrip().startswith("public ") and re.search(r"\bffi\b|\bNative[A-Z]", line)), f"{file}: {line}"


def everything_public_is_documented():
    for file in sources("hotset/src/main/kotlin"):
        if generated(file):
            continue
        lines = file.read_text().splitlines()
        assert lines[0].startswith("// "), f"{file}: no word about its purpose"
        for number, line in enumerate(lines):
            if re.match(r"\s*public (?!companion|class \w+\(message)", line):
                before = number - 1
                while lines[before].lstrip().startswith("@"):
                    before -= 1
                assert lines[before].rstrip().endswith("*/"), f"{file}:{number + 1}: {line.strip()}"


def namespaces_and_classes_agree():
    assert 'namespace = "dev.hotset"' in modules["hotset"]
    assert 'namespace = "dev.hotset.sample"' in modules["sample"]
    manifest = xml.parse(root / "sample/src/main/AndroidManifest.xml").getroot()
    for activity in manifest.iter("activity"):
        name = activity.get(f"{ANDROID}name").removeprefix(".")
        file = root / f"sample/src/main/kotlin/dev/hotset/sample/{name}.kt"
        assert f"class {name} :" in file.read_text(), file


def abis_api_levels_and_pages_agree():
    abis = re.search(r"abiFilters \+= listOf\((.*)\)", modules["hotset"]).group(1)
    for abi in re.findall(r'"(.*?)"', abis):
        assert f"-t {abi}" in assemble, abi
    assert f"--platform {versions['minSdk']} " in assemble
    assert "-z,max-page-size=16384" in assemble
    for text in modules.values():
        assert "libs.versions.minSdk" in text and "libs.versions.compileSdk" in text
    assert tuple(map(int, versions["jna"].split("."))) >= (5, 17), "older ones are not aligned to 16 KiB"
    assert 'variantOf(libs.jna) { artifactType("aar") }' in modules["hotset"]


def gradle_names_are_in_the_catalogue():
    texts = [re.sub(r"//.*", "", text) for text in (*modules.values(), (root / "build.gradle.kts").read_text())]
    known = {f"libs.{name.replace('-', '.')}" for name in catalogue["libraries"]}
    known |= {f"libs.plugins.{name.replace('-', '.')}" for name in catalogue["plugins"]}
    known |= {f"libs.versions.{name}" for name in versions}
    used = {re.sub(r"\.get\b.*", "", name) for text in texts for name in re.findall(r"\blibs\.[\w.]*\w", text)}
    assert used <= known, used - known
    for entry in (*catalogue["libraries"].values(), *catalogue["plugins"].values()):
        assert "version" not in entry or entry["version"]["ref"] in versions, entry
    settings = (root / "settings.gradle.kts").read_text()
    for name in modules:
        assert f'":{name}"' in settings


def resources_that_code_names_exist():
    strings = xml.parse(root / "sample/src/main/res/values/strings.xml").getroot()
    known = {entry.get("name") for entry in strings}
    used = {name for file in sources("sample/src/main/kotlin") for name in re.findall(r"R\.string\.(\w+)", file.read_text())}
    manifest = (root / "sample/src/main/AndroidManifest.xml").read_text()
    used |= set(re.findall(r"@string/(\w+)", manifest))
    assert used == known, used ^ known


def manifests_and_resources_link():
    """With Android's own packager, against the framework's resources."""
    with tempfile.TemporaryDirectory() as folder:
        resources = Path(folder) / "resources.zip"
        main = root / "sample/src/main"
        run("aapt2", "compile", "--dir", main / "res", "-o", resources)
        # The build puts these in; Android's packager wants them.
        text = (main / "AndroidManifest.xml").read_text().replace("<manifest ", '<manifest package="dev.hotset.sample" ', 1)
        manifest = Path(folder) / "AndroidManifest.xml"
        manifest.write_text(text)
        run("aapt2", "link", "-I", FRAMEWORK, "--manifest", manifest, "--min-sdk-version", versions["minSdk"], "-o", Path(folder) / "x.apk", resources)


def libraries_for_small_pages_are_refused():
    """The check of the release script, on libraries that are linked for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        for page, fits in ((4096, False), (16384, True), (65536, True)):
            path = Path(folder) / f"{page}.so"
            run("cc", "-shared", "-nostdlib", f"-Wl,-z,max-page-size={page}", "-x", "c", "/dev/null", "-o", path)
            assert (unfit(path) == []) == fits, (page, unfit(path))


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


def main():
    checks = [
        xml_is_well_formed,
        packages_agree_with_folders,
        bindings_are_where_the_rules_and_the_library_say,
        only_the_border_knows_the_bindings,
        everything_public_is_documented,
        namespaces_and_classes_agree,
        abis_api_levels_and_pages_agree,
        gradle_names_are_in_the_catalogue,
        resources_that_code_names_exist,
        manifests_and_resources_link,
        libraries_for_small_pages_are_refused,
    ]
    failed = 0
    for check in checks:
        try:
            check()
        except Exception as e:  # one broken shape must not hide the others
            failed += 1
            print(f"{check.__name__.replace('_', ' ')}: {e}", file=sys.stderr)
    print(f"shapes: {len(checks) - failed} hold, {failed} do not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
