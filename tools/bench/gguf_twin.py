"""Writes the GGUF twin of a q4 bundle: the same plan and, bit for bit, the same weights.

A q4 group and a Q4_0 block both mean (nibble - 8) * f16 scale over 32 columns, so only the order of nibbles differs. Both engines then
compute the same model and route every token to the same experts.
"""

import json
from pathlib import Path

import gguf
import numpy as np

PANEL, GROUP, ALIGN = 16, 32, 256  # rows of a panel, columns of a group, alignment of planes in bytes


class Bundle:
    """What the comparison needs from a bundle: its plan and its bytes."""

    def __init__(self, path: Path):
        self.bytes = np.memmap(path, np.uint8, "r")
        header_end = 8 + int.from_bytes(self.bytes[:8].tobytes(), "little")
        header = json.loads(self.bytes[8:header_end].tobytes())
        manifest = json.loads(header.pop("__metadata__")["hotset"])
        self.plan, self.tensors = manifest["plan"], manifest["tensors"]
        self.ranges = {n: tuple(header_end + o for o in t["data_offsets"]) for n, t in header.items()}

    def raw(self, name: str) -> np.ndarray:
        begin, end = self.ranges[name]
        return self.bytes[begin:end]

    def vector(self, name: str) -> np.ndarray:
        return self.raw(name).view(np.float32)[: self.tensors[name]["vector"]["len"]]

    def matrix(self, name: str) -> np.ndarray:
        """f32 [rows, cols], or Q4_0 blocks [rows, cols / 32 * 18] of bytes."""
        shape = self.tensors[name]["matrix"]
        unpack = {"f32": f32_rows, "q4": q4_0_rows}[shape["codec"]]
        return unpack(self.raw(name), shape["rows"], shape["cols"])

    def bytes_per_token(self) -> int:
        """Weight bytes that one decoded token reads: all that is dense, but one row of the embedding, and the chosen experts."""
        table = self.plan["embedding"]["table"]
        dense = sum(end - begin for name, (begin, end) in self.ranges.items() if name in self.tensors and name != table)
        routed = 0
        for step in self.plan["steps"]:
            if "routed" in step:
                pool = self.plan["pools"][step["routed"]["pool"]]
                begin, end = self.ranges[f"{pool['name']}.0"]
                routed += step["routed"]["router"]["select"]["rule"]["top_k"]["k"] * (end - begin)
        return dense + routed


def q4_bytes(rows: int, cols: int) -> int:
    """Bytes of a stored q4 matrix: words, then scales, each plane aligned."""
    return aligned(rows * cols // 2) + aligned(rows * cols // GROUP * 2)


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def f32_rows(raw: np.ndarray, rows: int, cols: int) -> np.ndarray:
    assert rows % PANEL == 0 and cols % GROUP == 0, "padded shapes are not supported"
    panels = raw[: rows * cols * 4].view(np.float32).reshape(rows // PANEL, cols, PANEL)
    return panels.swapaxes(1, 2).reshape(rows, cols)


def q4_0_rows(raw: np.ndarray, rows: int, cols: int) -> np.ndarray:
    assert rows % PANEL == 0 and cols % GROUP == 0, "padded shapes are not supported"
    panels, groups = rows // PANEL, cols // GROUP
    words = raw[: rows * cols // 2].reshape(panels, groups, 4, PANEL, 4)  # panel, group, word of 8 columns, row, byte
    words = words.transpose(0, 3, 1, 2, 4).reshape(rows, groups, 4, 4)
    nibbles = np.concatenate([words & 15, words >> 4], axis=-1).reshape(rows, groups, GROUP)
    scales = raw[aligned(rows * cols // 2) :][: rows * groups * 2].reshape(panels, groups, PANEL, 2)
    blocks = np.empty((rows, groups, 18), np.uint8)
    blocks[..., :2] = scales.swapaxes(1, 2).reshape(rows, groups, 2)
    blocks[..., 2:] = nibbles[..., :16] | nibbles[..., 16:] << 4
    return blocks.reshape(rows, groups * 18)


def experts(bundle: Bundle, pool: dict, which: int) -> np.ndarray:
    """Q4_0 blocks [experts, rows, bytes] of one matrix (0 gate, 1 up, 2 down) of every record."""
    width, hidden = bundle.plan["width"], pool["expert"]["ffn"]["hidden"]
    rows, cols = [(hidden, width), (hidden, width), (width, hidden)][which]
    begin = which * q4_bytes(hidden, width)
    return np.stack([q4_0_rows(bundle.raw(f"{pool['name']}.{i}")[begin:], rows, cols) for i in range(pool["records"])])


def tensors(bundle: Bundle):
    """Name in GGUF, shape in elements, and a function that makes the data, in file order."""
    plan = bundle.plan

    def dense(target: str, name: str):
        info = bundle.tensors[name]
        if "vector" in info:
            return f"{target}.weight", [info["vector"]["len"]], lambda: bundle.vector(name)
        return f"{target}.weight", [info["matrix"]["rows"], info["matrix"]["cols"]], lambda: bundle.matrix(name)

    yield dense("token_embd", plan["embedding"]["table"])
    yield dense("output_norm", plan["head"]["norm"]["rms"]["weight"])
    yield dense("output", plan["head"]["output"]["weight"])
    for layer, (attend, ffn) in enumerate(zip(plan["steps"][::2], plan["steps"][1::2], strict=True)):
        at, a, routed = f"blk.{layer}", attend["work"]["attention"], ffn["routed"]
        yield dense(f"{at}.attn_norm", attend["norm"]["rms"]["weight"])
        for part, target in [("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output")]:
            yield dense(f"{at}.{target}", a[part]["shared"]["weight"])
        for part in ("q_norm", "k_norm"):
            yield dense(f"{at}.attn_{part}", a[part]["rms"]["weight"])
        yield dense(f"{at}.ffn_norm", ffn["norm"]["rms"]["weight"])
        yield dense(f"{at}.ffn_gate_inp", routed["router"]["score"]["linear"]["weight"])
        pool = plan["pools"][routed["pool"]]
        e, d, f = pool["records"], plan["width"], pool["expert"]["ffn"]["hidden"]
        for which, (role, shape) in enumerate([("gate", [e, f, d]), ("up", [e, f, d]), ("down", [e, d, f])]):
            yield f"{at}.ffn_{role}_exps.weight", shape, lambda pool=pool, which=which: experts(bundle, pool, which)


def write(bundle: Bundle, target: Path) -> None:
    """Writes the twin. A norm over all heads and plain softmax weights are `olmoe`; a norm over each head and renormalised weights `qwen3moe`."""
    plan = bundle.plan
    attention, routed = plan["steps"][0]["work"]["attention"], plan["steps"][1]["routed"]
    all_heads = len(bundle.vector(attention["q_norm"]["rms"]["weight"])) != attention["head_dim"]
    renormalised = routed["router"]["weigh"]["normalise"]
    assert all_heads != renormalised, "no architecture of llama.cpp computes this"
    frequencies = plan["rotations"][0]["frequencies"]
    hidden = plan["pools"][0]["expert"]["ffn"]["hidden"]

    part = target.with_suffix(".part")
    w = gguf.GGUFWriter(part, "olmoe" if all_heads else "qwen3moe")
    w.add_vocab_size(plan["vocab"])
    w.add_context_length(plan["context"])
    w.add_embedding_length(plan["width"])
    w.add_block_count(len(plan["steps"]) // 2)
    w.add_feed_forward_length(hidden)
    w.add_expert_feed_forward_length(hidden)
    w.add_head_count(attention["heads"])
    w.add_head_count_kv(plan["states"][0]["kv_heads"])
    w.add_key_length(attention["head_dim"])
    w.add_value_length(attention["head_dim"])
    w.add_layer_norm_rms_eps(attention["q_norm"]["rms"]["eps"])
    w.add_rope_freq_base(frequencies[1] ** -float(len(frequencies)))
    w.add_expert_count(plan["pools"][0]["records"])
    w.add_expert_used_count(routed["router"]["select"]["rule"]["top_k"]["k"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("none")
    todo = list(tensors(bundle))
    for name, shape, _ in todo:
        exact = len(shape) == 1 or "ffn_gate_inp" in name
        kind = gguf.GGMLQuantizationType.F32 if exact else gguf.GGMLQuantizationType.Q4_0
        elements = int(np.prod(shape))
        w.add_tensor_info(name, shape, np.dtype(np.float32), elements * 4 if exact else elements // GROUP * 18, kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for _, _, make in todo:
        w.write_tensor_data(make())
    w.close()
    part.rename(target)
