//! What an instruction set must offer: sixteen lanes, one for each row of a panel.

/// Twice the value of each mxfp4 nibble, which is whole.
pub(super) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// Exponent bits of `2^-127`, the least scale of mxfp4.
pub(super) const LEAST_POWER: u32 = 0x0040_0000;

/// Operations on sixteen lanes.
///
/// # Safety
/// Every method needs the implementing type's CPU features. Methods that take a pointer read or write as many bytes as they say, at
/// any alignment.
pub(super) trait Lanes {
    /// Most tokens whose accumulators fit the registers.
    const TILE: usize;
    /// Sixteen f32.
    type Float: Copy;
    /// Sixteen 32-bit words of packed columns.
    type Word: Copy;
    /// Sixteen integer sums.
    type Sum: Copy;

    unsafe fn splat(x: f32) -> Self::Float;
    /// Reads 64 bytes.
    unsafe fn load(p: *const f32) -> Self::Float;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut f32, x: Self::Float);
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    /// Reads a line, 64 bytes.
    unsafe fn line(p: *const u8) -> Self::Word;
    /// Asks for a line that will be read soon. `p` may point anywhere.
    unsafe fn prefetch(p: *const u8);
    /// Reads sixteen f16, 32 bytes.
    unsafe fn scales(p: *const u8) -> Self::Float;
    /// Reads sixteen bytes `s` that mean `2^(s - 127)`: the exponent of a float, whose least is that of a subnormal number. 255 gives
    /// infinity.
    unsafe fn powers(p: *const u8) -> Self::Float;
    /// The low and the high half of each word as f16.
    unsafe fn halves(w: Self::Word) -> [Self::Float; 2];
    /// The low and the high half of each word as bf16.
    unsafe fn brains(w: Self::Word) -> [Self::Float; 2];

    /// Low nibbles and high nibbles, a byte each.
    unsafe fn nibbles(w: Self::Word) -> [Self::Word; 2];
    /// An empty sum of a q4 group.
    unsafe fn start4(fold: i32) -> Self::Sum;
    /// Adds four products: the bytes of `w` within 0..=15, those of `x` within ±127. A group takes eight of these.
    unsafe fn dot4(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum;
    /// `sum + fold`.
    unsafe fn finish4(sum: Self::Sum, fold: i32) -> Self::Float;

    /// Brings a line of q8 into the form that `dot8` wants.
    unsafe fn bytes(w: Self::Word) -> Self::Word;
    /// The same for the bytes that [`DOUBLED`] has for the low and for the high nibbles of a line of mxfp4.
    unsafe fn doubled(w: Self::Word) -> [Self::Word; 2];
    /// An empty sum of a q8 group.
    unsafe fn start8(fold: i32) -> Self::Sum;
    /// Adds four products of signed bytes, those of `x` within ±127.
    unsafe fn dot8(sum: Self::Sum, w: Self::Word, x: i32) -> Self::Sum;
    /// The sum of a q8 group.
    unsafe fn finish8(sum: Self::Sum) -> Self::Float;
}
