//! What a pickle is made of: values, the classes on the list, objects.

use crate::StoredDtype;

/// A value. Containers are indices into [`Unpickled::objects`](super::Unpickled::objects), so that cycles and sharing cost nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// An integer of more than 64 bits. No field that is read here needs one.
    BigInt,
    /// A float.
    Float(f64),
    /// Text.
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A class or function on the list.
    Class(Class),
    /// Any other class or function. It is never called.
    Foreign,
    /// A container or tensor.
    Object(usize),
}

/// The classes and functions on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`, and `_rebuild_parameter_with_state`.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`, which makes a tensor of a subclass with another function.
    RebuildFromType,
    /// `torch.Size`, a tuple.
    Size,
    /// A storage class of `torch`.
    Storage(StoredDtype),
    /// A class of a TorchScript archive. An object of it is the dictionary of its attributes.
    Module,
}

impl Class {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Size") => Self::Size,
            (script, _) if script == "__torch__" || script.starts_with("__torch__.") => Self::Module,
            ("torch", storage) => Self::Storage(StoredDtype::of_storage(storage)?),
            _ => return None,
        })
    }
}

/// The object behind a [`Value::Object`].
#[derive(Clone, Debug, PartialEq)]
pub enum Object<'a> {
    /// A tuple, or a `torch.Size`.
    Tuple(Vec<Value<'a>>),
    /// A list.
    List(Vec<Value<'a>>),
    /// A dict or `OrderedDict`, in order. A key may repeat; its last value holds.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A value of a class that is not on the list.
    Instance {
        /// Its items, if its class is a kind of dictionary.
        items: Vec<(Value<'a>, Value<'a>)>,
        /// Its attributes, as the pickle gives them.
        state: Option<Value<'a>>,
    },
    /// A storage. `torch.save` writes its values outside the pickle, under `key`.
    Storage {
        /// Number type.
        dtype: StoredDtype,
        /// Name of the archive's member that holds its values.
        key: &'a str,
        /// Number of values.
        numel: i64,
    },
    /// A view of a storage.
    Tensor {
        /// Index of the storage among the objects.
        storage: usize,
        /// Index of the first value in the storage.
        offset: i64,
        /// Shape.
        size: Vec<i64>,
        /// Strides, in values.
        stride: Vec<i64>,
    },
}

impl Object<'_> {
    /// Memory of its content, without the object itself.
    pub(super) fn n_held_bytes(&self) -> usize {
        match self {
            Self::Tuple(items) | Self::List(items) => items.capacity() * size_of::<Value>(),
            Self::Dict(items) | Self::Instance { items, .. } => items.capacity() * size_of::<(Value, Value)>(),
            Self::Storage { .. } => 0,
            Self::Tensor { size, stride, .. } => (size.capacity() + stride.capacity()) * size_of::<i64>(),
        }
    }
}

/// Whether the only use of this class or function in a pickle is to run code during loading. No checkpoint holds its
/// values, so a file that names it cannot be trusted.
pub(super) fn runs_code(module: &str, name: &str) -> bool {
    const MODULES: [&str; 20] = [
        "asyncio",
        "code",
        "commands",
        "ctypes",
        "imp",
        "importlib",
        "marshal",
        "nt",
        "os",
        "popen2",
        "posix",
        "pty",
        "runpy",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "timeit",
        "urllib",
        "webbrowser",
    ];
    const BUILTINS: [&str; 8] = ["__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"];
    match module.split('.').next().unwrap_or_default() {
        "builtins" | "__builtin__" => BUILTINS.contains(&name),
        package => MODULES.contains(&package),
    }
}
