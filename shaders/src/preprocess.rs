//! Expands `#import`, `#ifdef` (any of several symbols), `#else` and `#endif`, each on a line of its own. Used by the build script only.

use std::collections::HashSet;

use crate::sources::Sources;

/// The lines of `name` for the variant that has `defines`, with every import expanded once, where it is first asked for.
///
/// `enable` directives move to the top, where WGSL wants them. The error names file and line.
pub(crate) fn expand<'s>(sources: &'s Sources, name: &str, defines: &HashSet<String>) -> Result<Vec<&'s str>, String> {
    let text = sources.file(name).ok_or_else(|| format!("no kernel {name}"))?;
    let mut expansion = Expansion { sources, defines, seen: HashSet::new(), enables: Vec::new(), out: Vec::new() };
    expansion.file(name, text)?;
    Ok([expansion.enables, expansion.out].concat())
}

struct Expansion<'a, 's> {
    sources: &'s Sources,
    defines: &'a HashSet<String>,
    seen: HashSet<String>,
    enables: Vec<&'s str>,
    out: Vec<&'s str>,
}

impl<'s> Expansion<'_, 's> {
    fn file(&mut self, name: &str, text: &'s str) -> Result<(), String> {
        // For each open `#ifdef`: whether its current branch is taken.
        let mut open: Vec<bool> = Vec::new();
        for (i, line) in text.split_inclusive('\n').enumerate() {
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
                    let file = format!("shared/{file}");
                    let text = self.sources.file(&file).ok_or_else(|| fail(format!("no file {file}")))?;
                    if self.seen.insert(file.clone()) {
                        self.file(&file, text)?;
                    }
                }
                (Some(word), _) if word.starts_with('#') => return Err(fail(format!("unknown directive {:?}", line.trim_end()))),
                (word, _) => {
                    let out = if word == Some("enable") { &mut self.enables } else { &mut self.out };
                    out.push(line);
                }
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{name}.wgsl: #ifdef without #endif")) }
    }
}
