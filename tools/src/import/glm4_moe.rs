//! GLM-4.5: the experts of DeepSeek-V3 behind grouped-query attention that turns half of each head.

use super::Import;
use super::builder::Builder;
use super::config::Config;
use super::decoder::{Decoder, QkNorm};
use super::deepseek::{Sparse, leave_out_next_token_layers};
use crate::failure::Result;

pub(super) fn import(config: Config<'_>, mut b: Builder<'_>) -> Result<Import> {
    let moe = Sparse::v3(&config, 1)?;
    leave_out_next_token_layers(&config, &mut b)?;
    let decoder = Decoder {
        partial: Some(0.5),
        qkv_bias: config.flag("attention_bias", false)?,
        qk_norm: if config.flag("use_qk_norm", false)? { QkNorm::Head } else { QkNorm::None },
        ..Decoder::read(&config, 1e-5)?
    };
    decoder.build(config, b, |b, layer, step, prefix| moe.layer(b, layer, step, prefix))
}
