//! A tiny bundle with known words, and the program under test.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test programs; a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hotset::bundle::{BundleWriter, FORMAT, Manifest, Provenance, TOKENIZER, TensorInfo, Text};
use hotset::codec::{Codec, encode};
use hotset::plan::{Embedding, Head, Linear, Norm, Plan, VERSION};
use serde_json::{Map, Value, json};

/// 256 bytes, `<s>`, `</s>`.
pub const VOCAB: u32 = 258;
pub const EOS: u32 = 257;
/// Positions the tiny model says it was trained for.
pub const CONTEXT: usize = 24;
const WIDTH: u32 = 288;

/// Each byte's successor: the model says this after an `H`, and then ends its answer. Its bytes are all different.
pub const WORDS: &str = "Hé w!";

/// A bundle whose model looks at the last token only: after a byte of [`WORDS`] comes the next one; after a `?` and everywhere else nearly
/// any token may come.
pub struct Tiny {
    dir: tempfile::TempDir,
}

impl Tiny {
    pub fn new() -> Tiny {
        Tiny { dir: tempfile::tempdir().unwrap() }
    }

    /// With a tokenizer.
    pub fn bundle(&self) -> PathBuf {
        let path = self.path("tiny.hotset");
        write(&path, 1.0, Some(None));
        path
    }

    /// With a chat template.
    pub fn chat_bundle(&self, template: &str) -> PathBuf {
        let path = self.path("chat.hotset");
        write(&path, 1.0, Some(Some(template)));
        path
    }

    /// With other weights.
    pub fn other_bundle(&self) -> PathBuf {
        let path = self.path("other.hotset");
        write(&path, 0.7, Some(None));
        path
    }

    /// For token ids only.
    pub fn bundle_without_text(&self) -> PathBuf {
        let path = self.path("ids.hotset");
        write(&path, 1.0, None);
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

/// The byte-level alphabet: a character for each byte, none of them white space.
fn alphabet() -> Vec<char> {
    let plain = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0x100..;
    (0..256).map(|b| char::from_u32(if plain(b) { b } else { shifted.next().unwrap() }).unwrap()).collect()
}

/// Token `b` is byte `b`.
fn tokenizer() -> Vec<u8> {
    let vocab: Map<String, Value> = alphabet().iter().enumerate().map(|(b, c)| (c.to_string(), json!(b))).collect();
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(256, "<s>"), special(EOS, "</s>")],
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
    .to_string()
    .into_bytes()
}

fn write(path: &Path, scale: f32, text: Option<Option<&str>>) {
    let (vocab, width) = (VOCAB as usize, WIDTH as usize);
    // Token t becomes the t-th unit vector, so column t of the output matrix holds the logits after t.
    let mut table = vec![0.0f32; vocab * width];
    (0..vocab).for_each(|t| table[t * width + t] = 1.0);
    let mut output: Vec<f32> = (0..vocab * width).map(|i| (i * 7919 % 1009) as f32 * 1e-4).collect();
    let mut follow = |a: u32, b: u32| output[b as usize * width + a as usize] = 2.0;
    for pair in WORDS.as_bytes().windows(2) {
        follow(pair[0].into(), pair[1].into());
    }
    follow(WORDS.as_bytes()[WORDS.len() - 1].into(), EOS);

    let head = Head { norm: Norm::Rms { weight: "norm".into(), eps: 1e-5 }, output: Linear { weight: "output".into(), bias: None }, scale };
    let plan = Plan {
        version: VERSION,
        width: WIDTH,
        vocab: VOCAB,
        context: Some(CONTEXT as u32),
        embedding: Embedding::new("table".into(), 1.0),
        adapter: None,
        streams: vec![],
        memories: vec![],
        rotations: vec![],
        pools: vec![],
        states: vec![],
        steps: vec![],
        head,
    };
    let matrix = TensorInfo::Matrix { rows: VOCAB, cols: WIDTH, codec: Codec::F32 };
    let tensors = BTreeMap::from([
        ("norm".to_owned(), TensorInfo::Vector { len: WIDTH }),
        ("output".to_owned(), matrix),
        ("table".to_owned(), matrix),
    ]);
    let settings =
        |template: Option<&str>| Text { chat_template: template.map(str::to_owned), bos: Some(256), add_bos: false, eos: vec![EOS] };
    let manifest = Manifest {
        format: FORMAT,
        plan,
        tensors,
        text: text.map(settings),
        provenance: Provenance { name: "tiny".into(), ..Provenance::default() },
        hashes: BTreeMap::new(),
        fingerprint: String::new(),
    };
    let tokenizer = tokenizer();
    let mut writer = BundleWriter::create(path, manifest, text.map(|_| tokenizer.len())).unwrap();
    for entry in writer.entries().to_vec() {
        let mut bytes = vec![0; entry.bytes];
        match entry.name.as_str() {
            TOKENIZER => bytes.copy_from_slice(&tokenizer),
            "norm" => bytes[..width * 4].copy_from_slice(bytemuck::cast_slice(&vec![1.0f32; width])),
            "output" => encode(matrix.layout().unwrap(), &output, &mut bytes),
            "table" => encode(matrix.layout().unwrap(), &table, &mut bytes),
            _ => continue,
        }
        writer.write(&entry.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// What the program did.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `hotset` with nothing on stdin.
pub fn hotset(args: &[&str]) -> Done {
    hotset_with(args, b"")
}

/// Runs `hotset` with `input` on stdin.
pub fn hotset_with(args: &[&str], input: &[u8]) -> Done {
    let mut child = command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The program may end without reading all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `hotset` with these arguments, not started.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotset"));
    command.args(args).env_remove("HOTSET_LOG");
    command
}

impl Done {
    /// The output of a run that must have gone well and silently.
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// The one-line error of a run that must have failed with exit code 1 and no output.
    pub fn error(self) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{}", self.stderr);
        let line = self.stderr.strip_suffix('\n').unwrap();
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{line:?}");
        line.to_owned()
    }
}

pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}
