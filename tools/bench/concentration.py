"""Loss against the bytes of experts that are kept, on text of a domain: how well a model does with fewer experts, and what concentration adds.

Three curves for each domain, all on held-out text, relative to the whole original model:

* uniform: every layer keeps the same share, the experts chosen most often (frequency);
* best: layers keep what they deserve (contribution), nothing is trained;
* concentrated: checkpoints that `hotset concentrate --keep` made of the original, pruned to that share and others.

A folder holds `<domain>.calib.txt` (to profile with) and `<domain>.held.txt` (to measure with), neither of them trained on, and the checkpoints.
Every bundle is made here, so the folder can be thrown away. Nothing but Python and the program is needed. See README.md.
"""

import argparse
import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
KEEPS = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
COLOURS = {"uniform, by frequency": "#9a6700", "best counts": "#0969da", "concentrated": "#1a7f37"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with the texts; bundles and profiles are kept there")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original")
    parser.add_argument("--domain", action="append", required=True, help="NAME=CONCENTRATED[,CONCENTRATED…]: checkpoints trained for it")
    parser.add_argument("--hotset", type=Path, default=HERE.parents[1] / "target/release/hotset", help="the binary to use")
    parser.add_argument("--limit", type=int, default=16384, help="tokens of held-out text")
    parser.add_argument("--calibration", type=int, default=30000, help="tokens to profile with")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--svg", type=Path, help="draw them in this file")
    args = parser.parse_args()

    figures = {}
    for domain in args.domain:
        name, _, folders = domain.partition("=")
        figures[name] = measure(args, name, [Path(f) for f in folders.split(",") if f])
        report(name, figures[name])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    if args.svg:
        args.svg.write_text(draw(figures))


def hotset(args, *words) -> str:
    return subprocess.run([args.hotset, *map(str, words)], check=True, capture_output=True, text=True).stdout


def measure(args, domain: str, concentrated: list[Path]) -> dict:
    """The original's loss, and for each curve a list of (share asked for, share kept, loss)."""
    held = args.work / f"{domain}.held.txt"
    original, profile = prepare(args, domain, args.checkpoint)
    whole = loss(args, original, held)
    uniform = ["--criterion", "frequency", "--uniform"]
    curves = {
        "uniform, by frequency": [(k, loss(args, original, held, profile, k, uniform)) for k in KEEPS],
        "best counts": [(k, loss(args, original, held, profile, k)) for k in KEEPS],
    }
    trained = [prepare(args, domain, folder) for folder in concentrated]
    if trained:
        best = [(k, [loss(args, bundle, held, p, k) for bundle, p in trained]) for k in KEEPS]
        curves["concentrated"] = [(k, min((l for l in losses if l is not None), default=None)) for k, losses in best]
    return {
        "whole": whole,
        "concentrated_whole": [loss(args, bundle, held) for bundle, _ in trained],
        "curves": {name: [p for p in points if p[1] is not None] for name, points in curves.items()},
    }


def prepare(args, domain: str, checkpoint: Path) -> tuple[Path, Path]:
    """A bundle of the checkpoint, and its profile of the domain."""
    stem = args.work / f"{checkpoint.name}.{domain}"
    bundle, profile = stem.with_suffix(stem.suffix + ".hotset"), stem.with_suffix(stem.suffix + ".json")
    hotset(args, "convert", checkpoint, "-o", bundle, "--codec", "f16")
    text = args.work / f"{domain}.calib.txt"
    hotset(args, "profile", bundle, "--text", text, "--limit", args.calibration, "--context", args.context, "--device", "cpu", "-o", profile)
    return bundle, profile


def loss(args, bundle: Path, text: Path, profile: Path | None = None, keep: float = 1.0, choice: list[str] | None = None) -> float | None:
    """Nats per token; None where a router would be left fewer experts than it selects."""
    overlay = ["--profile", profile, "--keep", keep, *(choice or [])] if profile else []
    words = ["eval", bundle, "--text", text, "--limit", args.limit, "--context", args.context, "--device", "cpu", "--json", *overlay]
    try:
        return json.loads(hotset(args, *words))["nll"]
    except subprocess.CalledProcessError as error:
        if "fewer than it selects" in error.stderr:
            return None
        raise SystemExit(error.stderr) from error


def report(domain: str, figures: dict) -> None:
    whole = figures["whole"]
    print(f"\n{domain}: {whole:.4f} nats per token with all experts", flush=True)
    for name, points in figures["curves"].items():
        print(f"  {name:24}" + "".join(f"{k * 100:6.0f} % {(l / whole - 1) * 100:+6.2f}" for k, l in points), flush=True)
    for l in figures["concentrated_whole"]:
        print(f"  concentrated, not pruned {(l / whole - 1) * 100:+.2f} %", flush=True)


def draw(figures: dict, width: int = 330, height: int = 300, top: float = 25.0) -> str:
    """A panel for each domain: share of bytes kept to the right, per cent of loss added upwards, cut at `top`."""
    left, right, above, below = 46, 12, 34, 62
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(figures)} {height + 26}" font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    floor = -5.0
    for i, (domain, figure) in enumerate(figures.items()):
        x0, x1, y0, y1 = i * width + left, (i + 1) * width - right, height - below, above

        def x(keep: float) -> float:
            return x0 + (keep - 0.15) / 0.85 * (x1 - x0)

        def y(percent: float) -> float:
            return y0 + (min(max(percent, floor), top) - floor) / (top - floor) * (y1 - y0)

        out.append(f'<text x="{(x0 + x1) / 2}" y="18" text-anchor="middle" font-size="13" font-weight="600">{domain}</text>')
        for percent in range(int(floor), int(top) + 1, 5):
            strong = percent == 0
            out.append(f'<line x1="{x0}" x2="{x1}" y1="{y(percent):.1f}" y2="{y(percent):.1f}" stroke="{"#57606a" if strong else "#d8dee4"}"/>')
            out.append(f'<text x="{x0 - 5}" y="{y(percent) + 4:.1f}" text-anchor="end" fill="#57606a">{percent:+d} %</text>')
        for keep in (0.25, 0.5, 0.75, 1.0):
            out.append(f'<line x1="{x(keep):.1f}" x2="{x(keep):.1f}" y1="{y0}" y2="{y0 + 4}" stroke="#57606a"/>')
            out.append(f'<text x="{x(keep):.1f}" y="{y0 + 16}" text-anchor="middle" fill="#57606a">{keep * 100:.0f} %</text>')
        out.append(f'<text x="{(x0 + x1) / 2}" y="{y0 + 31}" text-anchor="middle" fill="#57606a">bytes of experts kept</text>')
        for keep, limit in ((0.5, 1.0), (0.25, 4.0)):
            out.append(f'<path d="M{x(keep) - 5:.1f} {y(limit):.1f}h10" stroke="#cf222e" stroke-width="2"/>')
        for name, points in figure["curves"].items():
            places = [(x(k), (l / figure["whole"] - 1) * 100) for k, l in points if k <= 1]
            if name != "concentrated":
                places.insert(0, (x(1.0), 0.0))
            line = " ".join(f"{px:.1f},{y(p):.1f}" for px, p in places if p <= top)
            out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
            out += [f'<circle cx="{px:.1f}" cy="{y(p):.1f}" r="2.6" fill="{COLOURS[name]}"/>' for px, p in places if p <= top]
    at = left
    for name, colour in COLOURS.items():
        out.append(f'<rect x="{at}" y="{height - 4}" width="14" height="4" fill="{colour}"/><text x="{at + 19}" y="{height + 2}">{name}</text>')
        at += 40 + 7 * len(name)
    out.append(f'<path d="M{at} {height - 2}h12" stroke="#cf222e" stroke-width="2"/><text x="{at + 17}" y="{height + 2}">aim: +1 % at a half, +4 % at a quarter</text>')
    out.append(f'<text x="{left}" y="{height + 20}" fill="#57606a">Loss on held-out text, against the whole original model; what goes beyond {top:+.0f} % is not drawn.</text>')
    return "\n".join(out) + "\n</svg>\n"


if __name__ == "__main__":
    main()
