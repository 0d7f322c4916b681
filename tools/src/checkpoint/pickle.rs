//! Reading a pickled state dict without running it.
//!
//! A pickle is a program for a stack machine that may call anything. This machine knows the handful of instructions that saving a
//! dictionary of tensors needs, and six callables that it recognises by name and never executes; everything else is an error that says
//! what was asked for. Values live in an arena and refer to each other by index, so sharing costs nothing and no depth of nesting can
//! exhaust the stack. Memory is proportional to the length of the pickle.

use std::collections::HashMap;

use safetensors::Dtype;

/// A tensor as pickled: a strided window of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window<'a> {
    /// Name of the storage's file in the archive.
    pub(super) storage: &'a str,
    pub(super) dtype: Dtype,
    /// Elements of the storage.
    pub(super) elements: usize,
    /// First element of the window.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Longest pickle that is read: far more than any table of tensors needs.
const MAX_BYTES: usize = 16 << 20;
/// Most axes of a tensor.
const MAX_AXES: usize = 8;

/// The tensors of a pickled state dict, by name. Errors are sentences without the file's name.
pub(super) fn state_dict(bytes: &[u8]) -> Result<HashMap<&str, Window<'_>>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("its table of tensors has {} bytes; at most {MAX_BYTES} are read", bytes.len()));
    }
    let mut machine = Machine { input: bytes, arena: vec![Value::Other], stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    let Value::Dict(items) = machine.value(root) else {
        return Err("it does not hold a dictionary of tensors".into());
    };
    let mut out = HashMap::new();
    for &(key, value) in items {
        let (name, window) = machine.item(key, value)?;
        if out.insert(name, window).is_some() {
            return Err(format!("it holds the tensor {name:?} twice"));
        }
    }
    Ok(out)
}

/// Index into the arena.
type Id = usize;

/// Where the value is that stands for everything nobody looks at: `None`, truth values, fractions, lists.
const OTHER: Id = 0;

enum Value<'a> {
    Other,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    Storage { key: &'a str, dtype: Dtype, elements: usize },
    Tensor(Box<Window<'a>>),
}

/// What a pickle may name.
#[derive(Clone, Copy)]
enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Callable {
    fn named(module: &str, name: &str) -> Result<Callable, String> {
        let dtype = match (module, name) {
            ("collections", "OrderedDict") => return Ok(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => return Ok(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => return Ok(Callable::RebuildParameter),
            ("torch", "FloatStorage") => Dtype::F32,
            ("torch", "HalfStorage") => Dtype::F16,
            ("torch", "BFloat16Storage") => Dtype::BF16,
            ("torch", "DoubleStorage") => Dtype::F64,
            ("torch", "CharStorage") => Dtype::I8,
            ("torch", "ByteStorage") => Dtype::U8,
            ("torch", "ShortStorage") => Dtype::I16,
            ("torch", "IntStorage") => Dtype::I32,
            ("torch", "LongStorage") => Dtype::I64,
            ("torch", "BoolStorage") => Dtype::BOOL,
            _ => return Err(format!("it asks for {module}.{name}, which a dictionary of tensors does not need; nothing was executed")),
        };
        Ok(Callable::Storage(dtype))
    }
}

struct Machine<'a> {
    input: &'a [u8],
    arena: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, String>;

fn broken<T>(what: &str) -> Step<T> {
    Err(format!("its table of tensors is damaged: {what}"))
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            match self.take::<1>()?[0] {
                0x80 => drop(self.take::<1>()?), // protocol
                0x95 => drop(self.take::<8>()?), // frame
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' | b']' | 0x88 | 0x89 => self.stack.push(OTHER),
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()));
                }
                b'K' => {
                    let n = self.take::<1>()?[0];
                    self.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take::<8>()?;
                    self.stack.push(OTHER);
                }
                0x8c => {
                    let n = self.take::<1>()?[0];
                    self.text(n.into())?;
                }
                b'X' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.text(n as usize)?;
                }
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items));
                }
                op @ 0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..op - 0x84 {
                        items.insert(0, self.pop()?);
                    }
                    self.push(Value::Tuple(items));
                }
                b'a' => drop(self.pop()?),
                b'e' => drop(self.since_mark()?),
                b'}' => self.push(Value::Dict(Vec::new())),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.extend(&items)?;
                }
                b'q' => {
                    let n = self.take::<1>()?[0];
                    self.remember(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.remember(n)?;
                }
                0x94 => {
                    let n = u32::try_from(self.memo.len()).or_else(|_| broken("too many references"))?;
                    self.remember(n)?;
                }
                b'h' => {
                    let n = self.take::<1>()?[0];
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.recall(n)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Callable(Callable::named(module, name)?));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let callable = Callable::named(self.as_text(module)?, self.as_text(name)?)?;
                    self.push(Value::Callable(callable));
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // Attributes of a dictionary: the versions of its modules.
                b'b' => drop(self.pop()?),
                op => return broken(&format!("instruction {op:#04x} is not one that saving tensors uses")),
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Step<[u8; N]> {
        let Some((head, rest)) = self.input.split_first_chunk() else { return broken("it ends too early") };
        self.input = rest;
        Ok(*head)
    }

    fn slice(&mut self, n: usize) -> Step<&'a [u8]> {
        let Some((head, rest)) = self.input.split_at_checked(n) else { return broken("it ends too early") };
        self.input = rest;
        Ok(head)
    }

    fn line(&mut self) -> Step<&'a str> {
        let Some(n) = self.input.iter().position(|&b| b == b'\n') else { return broken("it ends too early") };
        let line = self.slice(n + 1)?;
        std::str::from_utf8(&line[..n]).or_else(|_| broken("a name is not UTF-8"))
    }

    fn text(&mut self, n: usize) -> Step<()> {
        let text = std::str::from_utf8(self.slice(n)?).or_else(|_| broken("a name is not UTF-8"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// A little-endian two's complement number of up to eight bytes.
    fn long(&mut self) -> Step<()> {
        let n = self.take::<1>()?[0];
        let bytes = self.slice(n.into())?;
        if bytes.len() > 8 {
            return broken("a number is too large");
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.arena.len());
        self.arena.push(value);
    }

    /// Never takes what lies below the last mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return broken("the stack is empty");
        }
        self.stack.pop().map_or_else(|| broken("the stack is empty"), Ok)
    }

    fn since_mark(&mut self) -> Step<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => broken("a mark is missing"),
        }
    }

    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().map_or_else(|| broken("the stack is empty"), |&id| Ok(id))
    }

    fn remember(&mut self, n: u32) -> Step<()> {
        let id = self.top()?;
        self.memo.insert(n, id);
        Ok(())
    }

    fn recall(&mut self, n: u32) -> Step<()> {
        match self.memo.get(&n) {
            Some(&id) => self.stack.push(id),
            None => return broken("a reference leads nowhere"),
        }
        Ok(())
    }

    /// Adds keys and values to the dictionary on top.
    fn extend(&mut self, items: &[Id]) -> Step<()> {
        let id = self.top()?;
        match &mut self.arena[id] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => dict.extend(items.chunks(2).map(|p| (p[0], p[1]))),
            _ => return broken("items are added to something that is no dictionary"),
        }
        Ok(())
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.arena[id]
    }

    fn as_text(&self, id: Id) -> Step<&'a str> {
        match *self.value(id) {
            Value::Text(t) => Ok(t),
            _ => broken("a name is not text"),
        }
    }

    fn as_size(&self, id: Id) -> Step<usize> {
        match *self.value(id) {
            Value::Int(n) => usize::try_from(n).or_else(|_| broken(&format!("a size is {n}"))),
            _ => broken("a size is not a number"),
        }
    }

    fn as_sizes(&self, id: Id) -> Step<Vec<usize>> {
        let items = self.as_tuple(id)?;
        if items.len() > MAX_AXES {
            return broken(&format!("a tensor has {} axes", items.len()));
        }
        items.iter().map(|&i| self.as_size(i)).collect()
    }

    fn as_tuple(&self, id: Id) -> Step<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Ok(items),
            _ => broken("arguments are not a tuple"),
        }
    }

    /// A persistent id: `("storage", class, key, device, elements)`.
    fn storage(&mut self) -> Step<()> {
        let id = self.pop()?;
        let &[kind, class, key, _device, elements] = self.as_tuple(id)? else { return broken("a storage has the wrong fields") };
        let Value::Callable(Callable::Storage(dtype)) = *self.value(class) else { return broken("a storage has no element type") };
        if self.as_text(kind)? != "storage" {
            return broken("a reference is not to a storage");
        }
        let storage = Value::Storage { key: self.as_text(key)?, dtype, elements: self.as_size(elements)? };
        self.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Step<()> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let args = self.as_tuple(args)?;
        let result = match (self.value(callable), args) {
            (Value::Callable(Callable::OrderedDict), []) => Value::Dict(Vec::new()),
            (Value::Callable(Callable::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                let Value::Storage { key, dtype, elements } = *self.value(storage) else { return broken("a tensor has no storage") };
                let (shape, strides) = (self.as_sizes(shape)?, self.as_sizes(strides)?);
                if shape.len() != strides.len() {
                    return broken("a tensor has not one stride for each axis");
                }
                let offset = self.as_size(offset)?;
                Value::Tensor(Box::new(Window { storage: key, dtype, elements, offset, shape, strides }))
            }
            (Value::Callable(Callable::RebuildParameter), &[tensor, ..]) => match self.value(tensor) {
                Value::Tensor(t) => Value::Tensor(t.clone()),
                _ => return broken("a parameter is no tensor"),
            },
            _ => return broken("something is called with the wrong arguments"),
        };
        self.push(result);
        Ok(())
    }

    fn item(&self, key: Id, value: Id) -> Step<(&'a str, Window<'a>)> {
        let key = self.as_text(key)?;
        match self.value(value) {
            Value::Tensor(t) => Ok((key, Window::clone(t))),
            _ => Err(format!("its entry {key:?} is not a tensor; a checkpoint's weights are a flat dictionary of tensors")),
        }
    }
}
