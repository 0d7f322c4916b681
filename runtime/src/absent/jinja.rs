//! For `text::jinja`.

use super::without;
use crate::error::{Error, Result};
use crate::text::Message;

pub(crate) fn render(_: &str, _: &[Message], _: &str, _: &str) -> Result<String> {
    Err(Error::Input(without("chat templates", "templates", "write the prompt of this model by hand")))
}
