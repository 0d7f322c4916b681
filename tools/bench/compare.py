"""Hotset against llama.cpp on this machine's CPU: the same weights, the same tokens, in turns, in one run.

Every measurement is a process of its own; never two at once. See README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf_twin
import numpy as np

HERE = Path(__file__).parent
HOTSET, REPACKED, PLAIN = "hotset", "llama.cpp", "llama.cpp, weights as in the file"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="olmoe-1b-7b", help="what `hotset synth --like` takes")
    parser.add_argument("--work", type=Path, required=True, help="folder for the two models, outside the repository; they are kept")
    parser.add_argument("--hotset", type=Path, default=HERE.parents[1] / "target/release/hotset", help="the binary to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=128, help="tokens to decode")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pause", type=float, default=5.0, help="quiet seconds before each measurement")
    parser.add_argument("--json", type=Path, help="also write everything that was measured to this file")
    args = parser.parse_args()

    bundle, twin = models(args)
    print(f"same model: {agreement(args, bundle, twin)}", flush=True)

    llama = [sys.executable, HERE / "llama_run.py", twin, "-p", args.p, "-n", args.n, "--threads", args.threads]
    engines = {
        HOTSET: [args.hotset, "bench", bundle, "-p", args.p, "-n", args.n, "--threads", args.threads, "--device", "cpu", "--repeat", 1, "--json"],
        REPACKED: llama,
        PLAIN: [*llama, "--no-repack"],
    }
    runs = {name: [] for name in engines}
    for i in range(args.rounds):
        # Another engine goes first each time, so that no one always runs on the coolest machine.
        names = list(engines)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            time.sleep(args.pause)
            if (load := os.getloadavg()[0]) > args.threads + 0.5:
                print(f"the machine is busy (load {load:.1f}): this round will not mean much", flush=True)
            run = measure(engines[name])
            runs[name].append(run)
            print(f"round {i + 1}: {name}: prefill {run['prefill']:.1f}, decode {run['decode']:.1f} tokens/s", flush=True)
    report(args, bundle, twin, runs)
    if args.json:
        args.json.write_text(json.dumps(runs))


def models(args) -> tuple[Path, Path]:
    """The bundle and its twin, made on first use."""
    args.work.mkdir(parents=True, exist_ok=True)
    bundle, twin = args.work / f"{args.shape}.hotset", args.work / f"{args.shape}.gguf"
    if not bundle.exists():
        subprocess.run([args.hotset, "synth", "--like", args.shape, "-o", bundle], check=True)
        twin.unlink(missing_ok=True)
    if not twin.exists():
        print(f"writing {twin}", flush=True)
        gguf_twin.write(gguf_twin.Bundle(bundle), twin)
    return bundle, twin


def agreement(args, bundle: Path, twin: Path) -> str:
    """Compares both engines' logits after a short prompt: if the twin were another model, nothing below would mean anything."""
    tokens = ",".join(str(t) for t in range(5, 29))
    ours = run([args.hotset, "logits", bundle, "--tokens", tokens, "--device", "cpu", "--json"])[0]["logits"][-1]
    llama = [sys.executable, HERE / "llama_run.py", twin, "--tokens", tokens, "-n", 0, "--threads", args.threads, "--logits"]
    ours, theirs = np.array(ours), np.array(run(llama)[0]["logits"])
    correlation = np.corrcoef(ours, theirs)[0, 1]
    assert correlation > 0.98, f"the engines do not compute the same model: their logits correlate by {correlation:.3f} only"
    return f"logits after 24 tokens correlate by {correlation:.4f}"


def run(command) -> tuple[dict, int]:
    """The command's JSON and its peak resident memory in bytes."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([str(c) for c in command], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{command} failed"
        out.seek(0)
        return json.load(out), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(command) -> dict:
    result, memory = run(command)
    return {
        "prefill": result.get("prefill_tokens_per_second") or result["prefill"],
        "decode": result.get("decode_tokens_per_second") or result["decode"],
        "memory": result.get("peak_memory_bytes") or memory,
        "bandwidth": result.get("memory_bytes_per_second"),
    }


def report(args, bundle: Path, twin: Path, runs: dict) -> None:
    def median(name: str, key: str) -> float:
        return statistics.median(r[key] for r in runs[name])

    def spread(name: str, key: str) -> str:
        values = [r[key] for r in runs[name]]
        return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"

    per_token = gguf_twin.Bundle(bundle).bytes_per_token()
    bandwidth = max(r["bandwidth"] or 0 for r in runs[HOTSET])
    best = {key: max(median(name, key) for name in (REPACKED, PLAIN)) for key in ("prefill", "decode")}
    print(f"\n{args.shape}, {args.threads} threads, prompt {args.p}, {args.n} decoded, {args.rounds} rounds: median (min–max) tokens/s")
    print(f"{per_token / 1e6:.0f} MB of weights per decoded token, memory reads {bandwidth / 1e9:.1f} GB/s\n")
    print("| engine | prefill | decode | of bandwidth | peak memory | file |")
    print("|---|---|---|---|---|---|")
    for name in runs:
        share = median(name, "decode") * per_token / bandwidth if bandwidth else float("nan")
        file = bundle if name == HOTSET else twin
        sizes = f"{median(name, 'memory') / 2**30:.2f} GiB | {file.stat().st_size / 2**30:.2f} GiB"
        print(f"| {name} | {spread(name, 'prefill')} | {spread(name, 'decode')} | {share:.0%} | {sizes} |")
    ratios = {key: median(HOTSET, key) / best[key] for key in best}
    print(f"\nhotset / the faster llama.cpp: prefill {ratios['prefill']:.2f}×, decode {ratios['decode']:.2f}×")


if __name__ == "__main__":
    main()
