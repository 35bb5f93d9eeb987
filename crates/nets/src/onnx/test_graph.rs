//! Small ONNX files in the form of ONNX Runtime's dynamic quantisation, for tests.

use bytes::Bytes;
use prost::Message;

use super::{FLOAT, GraphProto, INT8, ModelProto, NodeProto, TensorProto};

/// A graph under construction.
#[derive(Default)]
pub(crate) struct TestGraph {
    graph: GraphProto,
}

impl TestGraph {
    /// Adds an initializer of floats.
    pub(crate) fn floats(&mut self, name: &str, shape: &[i64], values: &[f32]) {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, shape, FLOAT).raw_data = raw_data;
    }

    /// Adds `bias + (Q ⊙ scale)ᵀ x` as five nodes. Zero points are typed data, as ONNX Runtime writes them.
    pub(crate) fn quantised(&mut self, layer: &str, q: &[i8], scale: &[f32], zero_point: i32, bias: &[f32]) {
        let d_out = scale.len() as i64;
        let name = |what: &str| format!("{layer}/{what}");
        self.initializer(&name("Q"), &[q.len() as i64 / d_out, d_out], INT8).raw_data =
            Bytes::from_iter(q.iter().map(|value| *value as u8));
        let mut zero_points = vec![0; scale.len()];
        zero_points[scale.len() - 1] = zero_point;
        self.initializer(&name("zero"), &[d_out], INT8).int32_data = zero_points;
        self.floats(&name("scale"), &[d_out], scale);
        self.floats(&format!("{layer}.bias"), &[d_out], bias);
        self.node("Mul", &[&name("scale of x"), &name("scale")], &name("scales"));
        self.node("MatMulInteger", &[&name("x"), &name("Q"), &name("zero of x"), &name("zero")], &name("product"));
        self.node("Cast", &[&name("product")], &name("cast"));
        self.node("Mul", &[&name("cast"), &name("scales")], &name("scaled"));
        self.node("Add", &[&format!("{layer}.bias"), &name("scaled")], &name("y"));
    }

    /// Adds a node, called by its output.
    pub(crate) fn node(&mut self, op_type: &str, inputs: &[&str], output: &str) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op_type.to_owned(),
        });
    }

    /// Renames an initializer, but not the inputs of nodes.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let tensors = self.graph.initializer.iter_mut();
        tensors.filter(|tensor| tensor.name == from).for_each(|tensor| tensor.name = to.to_owned());
    }

    /// The file.
    pub(crate) fn file(&self) -> Bytes {
        ModelProto { ir_version: 7, graph: Some(self.graph.clone()) }.encode_to_vec().into()
    }

    fn initializer(&mut self, name: &str, shape: &[i64], data_type: i32) -> &mut TensorProto {
        let tensor = TensorProto { name: name.to_owned(), dims: shape.to_vec(), data_type, ..Default::default() };
        self.graph.initializer.push(tensor);
        self.graph.initializer.last_mut().expect("just pushed")
    }
}
