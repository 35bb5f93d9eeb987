//! An unpickler with an allow-list: the subset of Python's pickle protocols 2 to 5 that state dicts need.
//!
//! A pickle is a program for a stack machine. Python's machine calls any function that the pickle names. This machine
//! knows containers, plain values, and the few classes in [`Class`]. A value of any other class is an opaque
//! [`Object::Instance`], which is passed over: NumPy's numbers, arguments, paths, whole modules. A class or function whose
//! only use in a pickle is to run something (`runs_code`) is refused by name, and so is any other opcode. This machine
//! executes nothing and imports nothing. Each instruction makes at most one value. No instruction copies a container,
//! and strings are borrowed from the file. Yet an instruction of one byte makes an object of a hundred bytes, so memory
//! is counted and bounded.
//!
//! Opcodes and their meaning: CPython's `Lib/pickletools.py` at v3.12.0.

use std::collections::HashMap;

mod value;

use value::runs_code;
pub use value::{Class, Object, Value};

/// The result of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpickled<'a> {
    /// Containers and tensors, which values point to.
    pub objects: Vec<Object<'a>>,
    /// The pickle's result.
    pub root: Value<'a>,
    /// Length of the pickle. Other bytes may follow it.
    pub n_bytes: usize,
}

/// Why a pickle was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Position of the instruction.
    pub at: usize,
    /// The latest text on the stack, which is often the name of the value that is being made.
    pub near: Option<String>,
    /// The opcode or class, and the problem with it.
    pub problem: String,
}

/// Evaluates a pickle in about `max_memory` bytes at most.
///
/// # Errors
/// An opcode or class outside the list, or a program that contradicts itself, ends early, or takes more memory.
pub fn unpickle(bytes: &[u8], max_memory: u64) -> Result<Unpickled<'_>, Refusal> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        n_held_bytes: 0,
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(Some(root)) => return Ok(Unpickled { objects: machine.objects, root, n_bytes: machine.at }),
            Ok(None) if machine.n_bytes() > max_memory => {
                let problem = format!("its objects take more than {max_memory} bytes of memory, unlike a state dict's");
                return Err(Refusal { at, near: None, problem });
            }
            Ok(None) => {}
            Err(problem) => return Err(Refusal { at, near: machine.latest_text(), problem }),
        }
    }
}

/// Greatest number of dimensions of a size or stride.
const MAX_DIMS: usize = super::tensors::MAX_DIMS;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the marks that are not yet consumed.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    /// Memory of the objects' content.
    n_held_bytes: usize,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    /// Approximate memory of stack, marks, memo and objects.
    fn n_bytes(&self) -> u64 {
        let stack = self.stack.capacity() * size_of::<Value>() + self.marks.capacity() * size_of::<usize>();
        let memo = self.memo.capacity() * size_of::<(u32, Value)>();
        let objects = self.objects.capacity() * size_of::<Object>() + self.n_held_bytes;
        (stack + memo + objects) as u64
    }

    /// Executes one instruction. Returns the pickle's result at `STOP`.
    fn step(&mut self) -> Step<Option<Value<'a>>> {
        let opcode = self.take(1)?[0];
        match opcode {
            // PROTO, FRAME: the rest is the same in all protocols.
            0x80 => match self.take(1)?[0] {
                2..=5 => {}
                version => return Err(format!("it is of protocol {version}, expected 2 to 5")),
            },
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => {
                let key = self.take(1)?[0];
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memoize(key)?;
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|_| "its memo overflows".to_owned())?;
                self.memoize(key)?;
            }
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.class(module, name)?;
            }
            0x93 => {
                let items = self.pop_n(2)?;
                let (Value::Str(module), Value::Str(name)) = (items[0], items[1]) else {
                    return Err("STACK_GLOBAL of something other than two texts".to_owned());
                };
                self.class(module, name)?;
            }
            b'R' => {
                let items = self.pop_n(2)?;
                self.reduce(items[0], items[1])?;
            }
            0x81 | 0x92 => self.new_object(opcode)?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            _ if self.literal(opcode)? || self.collection(opcode)? => {}
            _ => return Err(format!("opcode {}", opcode_name(opcode))),
        }
        Ok(None)
    }

    /// Executes an instruction that pushes a value which stands in the pickle itself. False for any other opcode.
    fn literal(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            // LONG1, LONG4: two's complement of any length.
            0x8a => {
                let n = self.take(1)?[0];
                self.long(n.into())?;
            }
            0x8b => {
                let n = self.length_32()?;
                self.long(n)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8.
            0x8c => {
                let n = self.take(1)?[0];
                self.text(n.into())?;
            }
            b'X' => {
                let n = self.length_32()?;
                self.text(n)?;
            }
            0x8d => {
                let n = self.length_64()?;
                self.text(n)?;
            }
            // SHORT_BINSTRING and BINSTRING of Python 2, SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8.
            b'U' | b'C' => {
                let n = self.take(1)?[0];
                let bytes = self.take(n.into())?;
                self.push(Value::Bytes(bytes));
            }
            b'T' | b'B' => {
                let n = self.length_32()?;
                let bytes = self.take(n)?;
                self.push(Value::Bytes(bytes));
            }
            0x8e | 0x96 => {
                let n = self.length_64()?;
                let bytes = self.take(n)?;
                self.push(Value::Bytes(bytes));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Executes an instruction on tuples, lists, dicts, sets or marks. False for any other opcode.
    fn collection(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.object(Object::Tuple(Vec::new())),
            b']' => self.object(Object::List(Vec::new())),
            b'}' => self.object(Object::Dict(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.object(Object::Tuple(items));
            }
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let items = self.pop_n(n)?;
                self.object(Object::Tuple(items));
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.object(Object::List(items));
            }
            b'd' => {
                let items = self.pop_mark()?;
                let pairs = pairs(&items)?;
                self.object(Object::Dict(pairs));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.pop_n(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET: sets hold no tensors.
            0x8f => self.instance(),
            0x90 => drop(self.pop_mark()?),
            0x91 => {
                self.pop_mark()?;
                self.instance();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// NEWOBJ and NEWOBJ_EX: a class, its arguments, and in the latter arguments by name.
    fn new_object(&mut self, opcode: u8) -> Step<()> {
        let items = self.pop_n(if opcode == 0x81 { 2 } else { 3 })?;
        match items[0] {
            // The class of a TorchScript module stays on the stack until BUILD.
            Value::Class(Class::Module) => self.push(items[0]),
            Value::Class(Class::OrderedDict) => self.object(Object::Dict(Vec::new())),
            Value::Class(_) | Value::Foreign => self.instance(),
            _ => return Err(format!("{} of something other than a class", opcode_name(opcode))),
        }
        Ok(())
    }

    /// BUILD sets attributes. The attributes of an OrderedDict (`_metadata`) or a parameter hold no tensors.
    fn build(&mut self) -> Step<()> {
        let attributes = self.pop()?;
        match self.stack.last_mut() {
            Some(&mut Value::Object(object)) => {
                if let Object::Instance { state, .. } = &mut self.objects[object] {
                    *state = Some(attributes);
                }
            }
            Some(module) if *module == Value::Class(Class::Module) => *module = attributes,
            Some(Value::Foreign) => {}
            _ => return Err("BUILD of something that has no attributes".to_owned()),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let bytes = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| format!("it ends within an instruction that asks for {n} bytes"))?;
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn length_32(&mut self) -> Step<usize> {
        let n = u32::from_le_bytes(self.array()?);
        usize::try_from(n).map_err(|_| format!("a length of {n}"))
    }

    fn length_64(&mut self) -> Step<usize> {
        let n = u64::from_le_bytes(self.array()?);
        usize::try_from(n).map_err(|_| format!("a length of {n}"))
    }

    /// Text up to a line feed, which is consumed.
    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&byte| byte == b'\n').ok_or("it ends within a GLOBAL")?;
        let line = std::str::from_utf8(&rest[..n]).map_err(|_| "GLOBAL of a name that is not UTF-8".to_owned())?;
        self.at += n + 1;
        Ok(line)
    }

    fn text(&mut self, n: usize) -> Step<()> {
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| "a text that is not UTF-8".to_owned())?;
        self.push(Value::Str(text));
        Ok(())
    }

    fn long(&mut self, n: usize) -> Step<()> {
        let bytes = self.take(n)?;
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let value = if n <= 8 {
            Value::Int(i64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(fill))))
        } else {
            Value::BigInt
        };
        self.push(value);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn object(&mut self, object: Object<'a>) {
        self.push(Value::Object(self.objects.len()));
        self.n_held_bytes += object.n_held_bytes();
        self.objects.push(object);
    }

    /// Pops the top of the stack, which must be above the last mark.
    fn pop(&mut self) -> Step<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".to_owned());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_n(&mut self, n: usize) -> Step<Vec<Value<'a>>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(n).filter(|&start| start >= floor);
        Ok(self.stack.split_off(start.ok_or("the stack is too short")?))
    }

    fn pop_mark(&mut self) -> Step<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or("the stack has no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn memoize(&mut self, key: u32) -> Step<()> {
        let value = *self.stack.last().ok_or("nothing to remember")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let value = *self.memo.get(&key).ok_or_else(|| format!("nothing is remembered as {key}"))?;
        self.push(value);
        Ok(())
    }

    fn class(&mut self, module: &str, name: &str) -> Step<()> {
        let class = match Class::find(module, name) {
            Some(class) => Value::Class(class),
            None if runs_code(module, name) => return Err(format!("class `{module}.{name}`, which runs code")),
            None => Value::Foreign,
        };
        self.push(class);
        Ok(())
    }

    /// A value of a class that is not on the list.
    fn instance(&mut self) {
        self.object(Object::Instance { items: Vec::new(), state: None });
    }

    fn latest_text(&self) -> Option<String> {
        self.stack.iter().rev().find_map(|value| match value {
            Value::Str(text) => Some(text.chars().take(200).collect()),
            _ => None,
        })
    }

    /// The container on top of the stack, below the values just popped.
    fn target(&mut self) -> Step<&mut Object<'a>> {
        match self.stack.last() {
            Some(&Value::Object(object)) => Ok(&mut self.objects[object]),
            _ => Err("items of something that holds none".to_owned()),
        }
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Step<()> {
        match self.target()? {
            Object::List(list) => {
                let n_before = list.capacity();
                list.extend(items);
                let n_more = list.capacity() - n_before;
                self.n_held_bytes += n_more * size_of::<Value>();
                Ok(())
            }
            Object::Instance { .. } => Ok(()),
            _ => Err("APPEND to something other than a list".to_owned()),
        }
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Step<()> {
        let pairs = pairs(items)?;
        match self.target()? {
            Object::Dict(dict) | Object::Instance { items: dict, .. } => {
                let n_before = dict.capacity();
                dict.extend(pairs);
                let n_more = dict.capacity() - n_before;
                self.n_held_bytes += n_more * size_of::<(Value, Value)>();
                Ok(())
            }
            _ => Err("SETITEMS of something other than a dictionary".to_owned()),
        }
    }

    fn tuple(&self, value: Value<'a>) -> Step<&[Value<'a>]> {
        match value {
            Value::Object(object) => match &self.objects[object] {
                Object::Tuple(items) => Ok(items),
                _ => Err("expected a tuple, found something else".to_owned()),
            },
            _ => Err("expected a tuple, found something else".to_owned()),
        }
    }

    fn integers(&self, value: Value<'a>) -> Step<Vec<i64>> {
        let items = self.tuple(value)?;
        if items.len() > MAX_DIMS {
            return Err(format!("a tensor of {} dimensions", items.len()));
        }
        items
            .iter()
            .map(|item| match item {
                Value::Int(value) => Ok(*value),
                _ => Err("a size that is not an integer".to_owned()),
            })
            .collect()
    }

    /// Calls a function on the list.
    fn reduce(&mut self, function: Value<'a>, arguments: Value<'a>) -> Step<()> {
        let class = match function {
            Value::Class(class) => class,
            // What a function that is not on the list would give, also one that another such function gave.
            Value::Foreign => {
                self.instance();
                return Ok(());
            }
            Value::Object(object) if matches!(self.objects[object], Object::Instance { .. }) => {
                self.instance();
                return Ok(());
            }
            _ => return Err("REDUCE of something other than a class".to_owned()),
        };
        let arguments = self.tuple(arguments)?;
        match (class, arguments) {
            (Class::OrderedDict, []) => self.object(Object::Dict(Vec::new())),
            (Class::Size, [sizes]) => {
                let sizes = self.integers(*sizes)?;
                self.object(Object::Tuple(sizes.into_iter().map(Value::Int).collect()));
            }
            // Storage, offset, size, stride, requires_grad, hooks, and since torch 2 metadata.
            (
                Class::RebuildTensor,
                [Value::Object(storage), Value::Int(offset), size, stride, _, _]
                | [Value::Object(storage), Value::Int(offset), size, stride, _, _, _],
            ) => {
                let (storage, offset) = (*storage, *offset);
                let (size, stride) = (self.integers(*size)?, self.integers(*stride)?);
                if !matches!(self.objects[storage], Object::Storage { .. }) {
                    return Err("_rebuild_tensor_v2 of something other than a storage".to_owned());
                }
                self.object(Object::Tensor { storage, offset, size, stride });
            }
            // The tensor, requires_grad, hooks, and maybe attributes.
            (Class::RebuildParameter, [Value::Object(tensor), _, _] | [Value::Object(tensor), _, _, _])
                if matches!(self.objects[*tensor], Object::Tensor { .. }) =>
            {
                let tensor = Value::Object(*tensor);
                self.push(tensor);
            }
            (Class::RebuildFromType, [Value::Class(function), _, of_function, _])
                if *function != Class::RebuildFromType =>
            {
                return self.reduce(Value::Class(*function), *of_function);
            }
            (class, arguments) => {
                return Err(format!("{class:?} called with {} arguments of other kinds", arguments.len()));
            }
        }
        Ok(())
    }

    /// `('storage', class, key, location, numel)`, the only persistent id that `torch.save` writes.
    fn persistent(&mut self, id: Value<'a>) -> Step<()> {
        // Before torch 1.6, a view of another storage could follow, which no longer exists since 0.4.
        let id = match self.tuple(id)? {
            [id @ .., Value::None] if id.len() == 5 => id,
            id => id,
        };
        match id {
            [
                Value::Str("storage"),
                Value::Class(Class::Storage(dtype)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(numel),
            ] => {
                let storage = Object::Storage { dtype: *dtype, key, numel: *numel };
                self.object(storage);
                Ok(())
            }
            _ => Err("a persistent id that does not name a storage".to_owned()),
        }
    }
}

fn pairs<'a>(items: &[Value<'a>]) -> Step<Vec<(Value<'a>, Value<'a>)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a dictionary whose last key has no value".to_owned());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Name of a refused opcode.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x92 => "NEWOBJ_EX",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        b'2' => "DUP",
        b'P' => "PERSID",
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'p' => "PUT",
        b'g' => "GET",
        _ => return format!("0x{opcode:02x}, which does not exist"),
    };
    format!("{name} (0x{opcode:02x})")
}
