"""Hotset against llama.cpp when the model does not fit: both inside the same memory cgroup, page cache included.

Needs Linux, root, and a memory cgroup (v1 or v2) it may create groups in. Every measurement is a process in a group of its own, and the
models' pages are dropped from the page cache before each: pages that another group has paid for would be free memory.
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

import compare

HERE = Path(__file__).parent
MIB = 1 << 20
# What the process takes besides its budget: code, stacks, the reader's threads.
MARGIN = 96 * MIB


class Group:
    """A memory cgroup with a limit."""

    def __init__(self, limit: int):
        v1 = Path("/sys/fs/cgroup/memory")
        self.path = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"hotset-bench-{os.getpid()}"
        self.names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if v1.is_dir() else ("memory.max", "memory.peak")
        self.path.mkdir()
        self.write(self.names[0], limit)
        if not v1.is_dir():
            self.write("memory.swap.max", 0)

    def write(self, name: str, value) -> None:
        (self.path / name).write_text(str(value))

    def enter(self) -> None:
        self.write("cgroup.procs", os.getpid())

    def peak(self) -> int:
        return int((self.path / self.names[1]).read_text())

    def remove(self) -> None:
        for _ in range(50):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)


def forget(path: Path) -> None:
    """Drops a file from the page cache."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(command, limit: int, files) -> dict:
    for file in files:
        forget(file)
    group = Group(limit)
    try:
        with tempfile.TemporaryFile() as out:
            process = subprocess.run([str(c) for c in command], stdout=out, preexec_fn=group.enter)
            if process.returncode != 0:
                return {"prefill": 0.0, "decode": 0.0, "peak": group.peak(), "failed": process.returncode}
            out.seek(0)
            result = json.load(out)
        paging = result.get("paging") or {}
        return {
            "prefill": result.get("prefill_tokens_per_second") or result["prefill"],
            "decode": result.get("decode_tokens_per_second") or result["decode"],
            "peak": group.peak(),
            "hit_rate": paging.get("hit_rate"),
            "read": paging.get("bytes_read_per_token"),
            "stall": paging.get("stall_seconds_per_token"),
        }
    finally:
        group.remove()


def disk(path: Path, lanes: int) -> float:
    """Bytes per second of large random reads past the page cache, some at a time."""
    import mmap
    import random
    import threading

    size, block, total = path.stat().st_size, 4 * MIB, [0]
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    end = time.perf_counter() + 2

    def read(seed: int) -> None:
        choose, buffer = random.Random(seed), mmap.mmap(-1, block)
        while time.perf_counter() < end:
            total[0] += os.preadv(file, [buffer], choose.randrange(size // block) * block)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(lanes)]
    begin = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    os.close(file)
    return total[0] / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="olmoe-1b-7b", help="what `hotset synth --like` takes")
    parser.add_argument("--work", type=Path, required=True, help="folder for the two models, outside the repository; they are kept")
    parser.add_argument("--hotset", type=Path, default=HERE.parents[1] / "target/release/hotset", help="the binary to measure")
    parser.add_argument("--limits", default="1.5,2,3", help="GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-p", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=32, help="tokens to decode")
    parser.add_argument("--peer-n", type=int, default=8, help="tokens that llama.cpp decodes: it is slow here")
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    bundle, twin = compare.models(args)
    everything = resident(args, bundle)
    print(f"everything resident: decode {1 / everything:.1f} tokens/s\n", flush=True)
    print("| limit | engine | prefill | decode | peak | hits | read per token | stalled per token | disk | roofline of decode |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for limit in [int(float(g) * (1 << 30)) for g in args.limits.split(",")]:
        # One round of warming up is the benchmark's own.
        ours = [args.hotset, "bench", bundle, "--device", "cpu", "--ram", limit - MARGIN, "-p", args.p, "-n", args.n, "--threads", args.threads]
        llama = [sys.executable, HERE / "llama_run.py", twin, "-p", args.p, "-n", args.peer_n, "--threads", args.threads, "--no-repack"]
        runs = [measure([*ours, "--repeat", 1, "--json"], limit, [bundle, twin]) for _ in range(args.rounds)]
        peer = [measure(llama, limit, [bundle, twin]) for _ in range(args.peer_rounds)]

        def median(runs, key: str) -> float:
            return statistics.median(r[key] for r in runs)

        # The speed of a virtual disk depends on what its host remembers: measured right after, and as fast as it gets.
        speed = max(disk(bundle, lanes) for lanes in (1, 4))
        io = median(runs, "read") / speed
        roof = f"{1 / (everything + io):.1f} to {1 / max(everything, io):.1f}"
        hits, read, stall = median(runs, "hit_rate"), median(runs, "read") / MIB, median(runs, "stall") * 1e3
        gib = f"{limit / 2**30:g} GiB"
        mine = (median(runs, "prefill"), median(runs, "decode"))
        theirs = (median(peer, "prefill"), median(peer, "decode"))
        print(f"| {gib} | hotset | {mine[0]:.1f} | {mine[1]:.1f} | {median(runs, 'peak') / MIB:.0f} MiB | {hits:.1%} | {read:.0f} MiB | {stall:.0f} ms | {speed / 1e9:.1f} GB/s | {roof} |")
        print(f"| | llama.cpp | {theirs[0]:.1f} | {theirs[1]:.2f} | {median(peer, 'peak') / MIB:.0f} MiB | | | | | |")
        ratio = [m / t if t else float("inf") for m, t in zip(mine, theirs)]
        print(f"| | ratio | {ratio[0]:.1f}× | {ratio[1]:.1f}× | | | | | | |", flush=True)


def resident(args, bundle: Path) -> float:
    """Seconds of a decoded token with everything in memory."""
    command = [args.hotset, "bench", bundle, "--device", "cpu", "-p", args.p, "-n", args.n, "--threads", args.threads, "--repeat", 1, "--json"]
    return 1 / compare.measure(command)["decode"]


if __name__ == "__main__":
    main()
