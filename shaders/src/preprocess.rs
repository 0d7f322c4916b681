//! Expands `#import`, `#ifdef` (any of several symbols), `#else` and `#endif`, each on a line of its own. Used by the build script only.

use std::collections::{HashMap, HashSet};

/// The text of `name` for the variant that has `defines`, with every import expanded once, where it is first asked for.
///
/// `shared` are the importable files by name. `enable` directives move to the top, where WGSL wants them. The error names file and line.
pub(crate) fn expand(name: &str, text: &str, shared: &HashMap<String, String>, defines: &HashSet<String>) -> Result<String, String> {
    let (mut enables, mut out) = (String::new(), String::new());
    Expansion { shared, defines, seen: HashSet::new(), enables: &mut enables, out: &mut out }.file(name, text)?;
    Ok(enables + &out)
}

struct Expansion<'a> {
    shared: &'a HashMap<String, String>,
    defines: &'a HashSet<String>,
    seen: HashSet<String>,
    enables: &'a mut String,
    out: &'a mut String,
}

impl Expansion<'_> {
    fn file(&mut self, name: &str, text: &str) -> Result<(), String> {
        // For each open `#ifdef`: whether its current branch is taken.
        let mut open: Vec<bool> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let fail = |what: String| format!("{name}.wgsl:{}: {what}", i + 1);
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("#ifdef"), Some(symbol)) => open.push(self.defines.contains(symbol) || words.any(|s| self.defines.contains(s))),
                (Some("#else"), None) => match open.last_mut() {
                    Some(taken) => *taken = !*taken,
                    None => return Err(fail("#else without #ifdef".into())),
                },
                (Some("#endif"), None) => {
                    open.pop().ok_or_else(|| fail("#endif without #ifdef".into()))?;
                }
                _ if open.contains(&false) => {}
                (Some("#import"), Some(file)) => {
                    let (key, text) = self.shared.get_key_value(file).ok_or_else(|| fail(format!("no shared file {file}")))?;
                    if self.seen.insert(key.clone()) {
                        self.file(key, text)?;
                    }
                }
                (Some(word), _) if word.starts_with('#') => return Err(fail(format!("unknown directive {line:?}"))),
                (word, _) => {
                    let out = if word == Some("enable") { &mut self.enables } else { &mut self.out };
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{name}.wgsl: #ifdef without #endif")) }
    }
}
