//! Lines from a person at a terminal, or from a pipe.

use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::{Failure, Result};

/// Where lines come from.
pub(crate) enum Input {
    /// A terminal, with editing and a history file.
    Terminal(Box<DefaultEditor>, Option<PathBuf>),
    /// Anything else.
    Pipe,
}

/// What came.
pub(crate) enum Line {
    /// A message: one line, or several that end in `\` and the one after them.
    Text(String),
    /// Ctrl-C: whatever was typed is void.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

impl Input {
    /// Takes stdin for what it is.
    pub(crate) fn open() -> Result<Input> {
        if !stdin().is_terminal() {
            return Ok(Input::Pipe);
        }
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal(Box::new(editor), history))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(..))
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Result<Line> {
        let mut message = String::new();
        loop {
            let line = match self.line(if message.is_empty() { "> " } else { "… " })? {
                Line::Text(line) => line,
                Line::End if !message.is_empty() => return Ok(Line::Text(message)),
                other => return Ok(other),
            };
            match line.strip_suffix('\\') {
                Some(start) => message = message + start + "\n",
                None => return Ok(Line::Text(message + &line)),
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Input::Terminal(editor, history) => match editor.readline(prompt) {
                Ok(line) => {
                    remember(editor, history.as_deref(), &line);
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(e) => Err(failed(e)),
            },
            Input::Pipe => {
                let mut line = String::new();
                let bytes = stdin().read_line(&mut line)?;
                Ok(if bytes == 0 { Line::End } else { Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()) })
            }
        }
    }
}

/// Adds `line` to the history and its file at once: terminals get closed without a goodbye. Failing to is no reason to disturb.
fn remember(editor: &mut DefaultEditor, file: Option<&Path>, line: &str) {
    let _ = editor.add_history_entry(line);
    if let Some(path) = file {
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = editor.append_history(path);
    }
}

fn failed(e: ReadlineError) -> Failure {
    Failure::new(format!("the terminal cannot be read: {e}"))
}

/// `hotset/history` in the place where this system keeps the state of programs.
fn history_file() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = var("XDG_STATE_HOME").or_else(|| var("LOCALAPPDATA")).or_else(|| var("HOME").map(|home| home.join(".local/state")));
    Some(state?.join("hotset").join("history"))
}
