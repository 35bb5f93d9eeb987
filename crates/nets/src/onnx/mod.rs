//! Reads the graph and the initializers of an ONNX file. It runs nothing.
//!
//! An ONNX file is one protocol-buffers message, `ModelProto`. This module declares only the fields needed for weights,
//! with their numbers from `onnx/onnx.proto3` at onnx v1.17.0 (IR version 10); prost skips all others. Raw tensor data
//! stays a slice of the file's bytes until a caller takes it, so the memory peak is one file plus one tensor.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use tch::Tensor;

/// Greatest size of a protocol-buffers message, whose lengths have 31 bits. A larger file cannot be an ONNX file.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

mod products;

pub use products::Products;

#[cfg(test)]
pub(crate) mod test_graph;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT8`.
const INT8: i32 = 3;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "bytes", tag = "9")]
    raw_data: Bytes,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

/// Why an ONNX file, or a tensor in it, could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum OnnxError {
    /// The file could not be read.
    #[error("reading the ONNX file {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any ONNX file can be.
    #[error(
        "{}: {n_bytes} bytes, and an ONNX file holds at most {MAX_FILE_BYTES}; this is something else",
        path.display()
    )]
    TooLarge { path: PathBuf, n_bytes: u64 },
    /// The file is not a protocol-buffers message of the expected form, or is cut short.
    #[error(
        "{} is not an ONNX file, or is cut short; `agiqa weights verify` tells which files are damaged",
        path.display()
    )]
    Malformed {
        path: PathBuf,
        #[source]
        source: prost::DecodeError,
    },
    /// The message decodes, but holds no graph.
    #[error("{} holds no graph; it may be empty or of another format", path.display())]
    NoGraph { path: PathBuf },
    /// Two initializers have the same name.
    #[error("{}: duplicate initializer `{name}`", path.display())]
    Duplicate { path: PathBuf, name: String },
    /// An initializer is absent.
    #[error("{}: no initializer `{name}` among its {n_initializers}{}", path.display(), hint(nearest))]
    Missing { path: PathBuf, name: String, n_initializers: usize, nearest: Option<String> },
    /// An initializer has another element type.
    #[error("{}: initializer `{name}`: expected element type {expected}, found ONNX data type {found}", path.display())]
    DataType {
        path: PathBuf,
        name: String,
        /// The wanted type, in words.
        expected: &'static str,
        /// `TensorProto.DataType` of the initializer.
        found: i32,
    },
    /// An initializer has another shape.
    #[error("{}: initializer `{name}`: expected shape {expected:?}, found {found:?}", path.display())]
    Shape { path: PathBuf, name: String, expected: Vec<i64>, found: Vec<i64> },
    /// An initializer's data do not fill its shape.
    #[error(
        "{}: initializer `{name}` of shape {shape:?} needs {expected} bytes of data and has {found}",
        path.display()
    )]
    DataLength {
        path: PathBuf,
        name: String,
        shape: Vec<i64>,
        /// Bytes that the shape needs. It is text because a hostile shape may need a number of more than 64 bits.
        expected: String,
        found: usize,
    },
    /// An initializer's data lie in another file.
    #[error("{}: initializer `{name}` keeps its data in another file, which is not supported", path.display())]
    ExternalData { path: PathBuf, name: String },
    /// A value is not a finite number.
    #[error("{}: initializer `{name}`, element {element}: {value} is not a finite number", path.display())]
    NotFinite {
        path: PathBuf,
        name: String,
        /// Flat index of the element.
        element: usize,
        value: f32,
    },
    /// No product with constant weights is added to the bias of a linear layer, or several are.
    #[error(
        "{}: expected one product with a constant (`MatMul` or `MatMulInteger`) that is added to `{bias}`, found \
         {found}; this is not the graph of the network that was expected",
        path.display()
    )]
    Product { path: PathBuf, bias: String, found: usize },
    /// A quantised product cannot be read back as a product of floats.
    #[error("{}: node `{node}`: {problem}", path.display())]
    Quantised { path: PathBuf, node: String, problem: String },
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!("; the nearest is `{name}`"))
}

/// One operation of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its own name, possibly empty.
    pub name: String,
    /// Name of the operation, e.g. `MatMul`.
    pub op_type: String,
    /// Names of the values that it reads: outputs of other nodes, graph inputs or initializers.
    pub inputs: Vec<String>,
    /// Names of the values that it computes.
    pub outputs: Vec<String>,
}

/// The graph and the initializers of an ONNX file.
#[derive(Debug)]
pub struct OnnxFile {
    path: PathBuf,
    nodes: Vec<Node>,
    initializers: HashMap<String, TensorProto>,
}

impl OnnxFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file is unreadable, not an ONNX file or cut short, or has two initializers of the same name.
    pub fn read(path: &Path) -> Result<Self, OnnxError> {
        let io = |source| OnnxError::Io { path: path.to_owned(), source };
        let n_bytes = std::fs::metadata(path).map_err(io)?.len();
        if n_bytes > MAX_FILE_BYTES {
            return Err(OnnxError::TooLarge { path: path.to_owned(), n_bytes });
        }
        Self::parse(Bytes::from(std::fs::read(path).map_err(io)?), path)
    }

    /// Reads a file's bytes. `path` appears in messages.
    ///
    /// # Errors
    /// As [`OnnxFile::read`].
    pub fn parse(bytes: Bytes, path: &Path) -> Result<Self, OnnxError> {
        let model =
            ModelProto::decode(bytes).map_err(|source| OnnxError::Malformed { path: path.to_owned(), source })?;
        let graph = model.graph.ok_or_else(|| OnnxError::NoGraph { path: path.to_owned() })?;
        let nodes = graph
            .node
            .into_iter()
            .map(|node| Node { name: node.name, op_type: node.op_type, inputs: node.input, outputs: node.output })
            .collect();
        let mut initializers = HashMap::with_capacity(graph.initializer.len());
        for tensor in graph.initializer {
            if let Some(first) = initializers.insert(tensor.name.clone(), tensor) {
                return Err(OnnxError::Duplicate { path: path.to_owned(), name: first.name });
            }
        }
        Ok(Self { path: path.to_owned(), nodes, initializers })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The operations in the file's order, which is a valid order of execution.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether the file has an initializer `name`.
    pub fn has(&self, name: &str) -> bool {
        self.initializers.contains_key(name)
    }

    /// Names of the initializers, in any order.
    pub fn initializer_names(&self) -> impl Iterator<Item = &str> {
        self.initializers.keys().map(String::as_str)
    }

    /// Shape of the initializer `name`.
    ///
    /// # Errors
    /// The initializer is absent.
    pub fn shape(&self, name: &str) -> Result<&[i64], OnnxError> {
        Ok(&self.find(name)?.dims)
    }

    /// The f32 initializer `name` as a tensor on the CPU.
    ///
    /// # Errors
    /// The initializer is absent or has another type or shape, its data do not fill the shape, or a value is not
    /// finite.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, OnnxError> {
        let values = self.floats(name, shape)?;
        Ok(Tensor::from_slice(&values).view(shape))
    }

    /// Values of the f32 initializer `name`, row-major.
    ///
    /// # Errors
    /// As [`OnnxFile::tensor`].
    pub fn floats(&self, name: &str, shape: &[i64]) -> Result<Vec<f32>, OnnxError> {
        let tensor = self.checked(name, FLOAT, "float")?;
        self.shaped(tensor, shape)?;
        let values = self.elements(tensor, &tensor.float_data, f32::from_le_bytes)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(element) => Err(OnnxError::NotFinite {
                path: self.path.clone(),
                name: name.to_owned(),
                element,
                value: values[element],
            }),
        }
    }

    /// The int8 initializer `name` as a tensor on the CPU.
    ///
    /// # Errors
    /// As [`OnnxFile::tensor`].
    pub fn int8_tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, OnnxError> {
        self.shaped(self.checked(name, INT8, "int8")?, shape)?;
        Ok(Tensor::from_slice(&self.int8s(name)?).view(shape))
    }

    /// Values of the int8 initializer `name`, row-major. It may have any shape.
    ///
    /// # Errors
    /// The initializer is absent or has another type, or its data do not fill its shape.
    pub fn int8s(&self, name: &str) -> Result<Vec<i8>, OnnxError> {
        let tensor = self.checked(name, INT8, "int8")?;
        // Outside the raw bytes, a file keeps small integers as larger ones. One that is no int8 is left out, so that
        // the data do not fill the shape.
        let typed: Vec<i8> = tensor.int32_data.iter().filter_map(|value| i8::try_from(*value).ok()).collect();
        self.elements(tensor, &typed, i8::from_le_bytes)
    }

    fn find(&self, name: &str) -> Result<&TensorProto, OnnxError> {
        self.initializers.get(name).ok_or_else(|| {
            let available = self.initializers.keys().map(String::as_str);
            OnnxError::Missing {
                path: self.path.clone(),
                name: name.to_owned(),
                n_initializers: self.initializers.len(),
                nearest: agiqa_suggest::nearest(name, available).map(str::to_owned),
            }
        })
    }

    fn checked(&self, name: &str, data_type: i32, expected: &'static str) -> Result<&TensorProto, OnnxError> {
        let tensor = self.find(name)?;
        let (path, name) = (self.path.clone(), name.to_owned());
        if tensor.data_type != data_type {
            return Err(OnnxError::DataType { path, name, expected, found: tensor.data_type });
        }
        if tensor.data_location == EXTERNAL {
            return Err(OnnxError::ExternalData { path, name });
        }
        Ok(tensor)
    }

    fn shaped(&self, tensor: &TensorProto, shape: &[i64]) -> Result<(), OnnxError> {
        if tensor.dims == shape {
            return Ok(());
        }
        let (path, name) = (self.path.clone(), tensor.name.clone());
        Err(OnnxError::Shape { path, name, expected: shape.to_vec(), found: tensor.dims.clone() })
    }

    /// The elements, from the raw little-endian bytes, or from `typed` if the file has no raw bytes.
    fn elements<T: Copy, const N: usize>(
        &self,
        tensor: &TensorProto,
        typed: &[T],
        from_le_bytes: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, OnnxError> {
        let n_elements = tensor
            .dims
            .iter()
            .try_fold(1_usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))
            .filter(|n| n.checked_mul(N).is_some());
        let found = if tensor.raw_data.is_empty() { size_of_val(typed) } else { tensor.raw_data.len() };
        if n_elements.map(|n| n * N) != Some(found) {
            return Err(OnnxError::DataLength {
                path: self.path.clone(),
                name: tensor.name.clone(),
                shape: tensor.dims.clone(),
                expected: n_elements.map_or_else(|| "more than 2^64".to_owned(), |n| (n * N).to_string()),
                found,
            });
        }
        if tensor.raw_data.is_empty() {
            return Ok(typed.to_vec());
        }
        let (chunks, _) = tensor.raw_data.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| from_le_bytes(chunk)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(initializer: Vec<TensorProto>) -> Vec<u8> {
        let node = NodeProto {
            input: vec!["x".into(), "w".into()],
            output: vec!["y".into()],
            op_type: "MatMul".into(),
            ..Default::default()
        };
        let graph = GraphProto { node: vec![node], initializer };
        ModelProto { ir_version: 8, graph: Some(graph) }.encode_to_vec()
    }

    fn parse(bytes: Vec<u8>) -> Result<OnnxFile, OnnxError> {
        OnnxFile::parse(Bytes::from(bytes), Path::new("net.onnx"))
    }

    fn float(name: &str, dims: &[i64], raw: &[f32]) -> TensorProto {
        TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: FLOAT,
            raw_data: raw.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn raw_and_typed_data_read_alike() {
        let typed = TensorProto { float_data: vec![1.0, -2.0], raw_data: Bytes::new(), ..float("typed", &[2, 1], &[]) };
        let onnx = parse(file(vec![float("raw", &[2, 1], &[1.0, -2.0]), typed])).expect("well formed");
        assert_eq!(onnx.floats("raw", &[2, 1]).expect("there"), [1.0, -2.0]);
        assert_eq!(onnx.floats("typed", &[2, 1]).expect("there"), [1.0, -2.0]);
        assert_eq!(onnx.nodes()[0].inputs, ["x", "w"]);
    }

    #[test]
    fn errors_name_the_tensor_and_the_expected_and_found_values() {
        let onnx = parse(file(vec![
            float("w", &[2, 2], &[0.0; 4]),
            float("short", &[2, 2], &[0.0; 3]),
            float("huge", &[i64::MAX, i64::MAX], &[0.0]),
            float("negative", &[-1, 4], &[0.0; 4]),
            float("nan", &[2], &[0.0, f32::NAN]),
        ]))
        .expect("well formed");
        let message = |name: &str, shape: &[i64]| onnx.floats(name, shape).expect_err("refused").to_string();
        assert_eq!(message("w", &[4]), "net.onnx: initializer `w`: expected shape [4], found [2, 2]");
        assert_eq!(
            message("short", &[2, 2]),
            "net.onnx: initializer `short` of shape [2, 2] needs 16 bytes of data and has 12"
        );
        assert!(message("huge", &[i64::MAX, i64::MAX]).contains("more than 2^64"));
        assert!(message("negative", &[-1, 4]).contains("has 16"));
        assert_eq!(message("nan", &[2]), "net.onnx: initializer `nan`, element 1: NaN is not a finite number");
        assert!(message("shart", &[1]).ends_with("no initializer `shart` among its 5; the nearest is `short`"));
        assert!(onnx.int8s("w").expect_err("refused").to_string().contains("expected element type int8"));
    }

    #[test]
    fn files_cut_short_and_files_of_other_kinds_are_errors() {
        let whole = file(vec![float("w", &[64], &[0.5; 64])]);
        for n_bytes in 1..whole.len() {
            // A file cut between two fields may still decode. Then the graph or the tensor is missing.
            if let Ok(onnx) = parse(whole[..n_bytes].to_vec()) {
                assert!(onnx.tensor("w", &[64]).is_err(), "{n_bytes} of {} bytes", whole.len());
            }
        }
        assert!(matches!(parse(Vec::new()), Err(OnnxError::NoGraph { .. })));
        assert!(matches!(parse(b"\x89PNG\r\n\x1a\n....".to_vec()), Err(OnnxError::Malformed { .. })));
        let twice = file(vec![float("w", &[1], &[0.0]), float("w", &[1], &[0.0])]);
        assert!(matches!(parse(twice), Err(OnnxError::Duplicate { .. })));
    }

    #[test]
    fn random_bytes_never_panic() {
        use proptest::prelude::*;
        proptest!(ProptestConfig::with_cases(512), |(bytes in proptest::collection::vec(any::<u8>(), 0..256))| {
            let _ = parse(bytes);
        });
    }
}
