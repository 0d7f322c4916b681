//! The caches of a run as bytes: what a saved or suspended conversation consists of, beside its tokens.
//!
//! An executor writes what it has and reads only what it wrote itself: its form comes first, and one of another form is left alone, so that the
//! tokens are read again instead.

use crate::error::{Error, Result};

/// Where bytes go.
pub struct Writer<'a>(&'a mut dyn FnMut(&[u8]) -> Result<()>);

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<'a> Writer<'a> {
    /// Gives everything to `to`, piece by piece.
    pub fn new(to: &'a mut dyn FnMut(&[u8]) -> Result<()>) -> Writer<'a> {
        Writer(to)
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        (self.0)(bytes)
    }

    /// Writes a number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn number(&mut self, n: u64) -> Result<()> {
        self.bytes(&n.to_le_bytes())
    }

    /// Writes what [`Reader::is`] looks for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn form(&mut self, form: &str) -> Result<()> {
        self.number(form.len() as u64)?;
        self.bytes(form.as_bytes())
    }
}

/// Where bytes come from: perhaps a file that somebody has damaged.
pub struct Reader<'a>(&'a mut dyn FnMut(&mut [u8]) -> Result<()>);

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl<'a> Reader<'a> {
    /// Takes everything from `from`, which fills what it is given or fails.
    pub fn new(from: &'a mut dyn FnMut(&mut [u8]) -> Result<()>) -> Reader<'a> {
        Reader(from)
    }

    /// Fills `to`.
    ///
    /// # Errors
    /// When there are not as many bytes.
    pub fn fill(&mut self, to: &mut [u8]) -> Result<()> {
        (self.0)(to)
    }

    /// A number of at most `most`.
    ///
    /// # Errors
    /// When it is larger or there is none.
    pub fn number(&mut self, most: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        match u64::from_le_bytes(bytes) {
            n if n <= most => Ok(n),
            n => Err(Error::Input(format!("it has the number {n} where there is at most {most}"))),
        }
    }

    /// Whether what follows is of this form. When it is not, there is nothing to be read behind it.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn is(&mut self, form: &str) -> Result<bool> {
        if self.number(u64::MAX)? != form.len() as u64 {
            return Ok(false);
        }
        let mut bytes = vec![0; form.len()];
        self.fill(&mut bytes)?;
        Ok(bytes == form.as_bytes())
    }
}
