//! Weights of linear layers, identified on the graph.
//!
//! Exporters keep the names of biases, but fold the transposed weights into constants with meaningless names
//! (`onnx::MatMul_1996`, stored `(in, out)`). The graph alone tells which layer such a constant belongs to: its product
//! is added to the bias of that layer. Two forms of a product are known:
//!
//! ```text
//! floats      Add(bias, MatMul(x, W))
//! quantised   Add(bias, Mul(Cast(MatMulInteger(q(x), Q, zero(x), 0)), Mul(scale(x), s)))        W = Q ⊙ s
//! ```
//!
//! `Q` has 8 bits and `s` one value per output column. ONNX Runtime's dynamic quantisation writes the second form. It
//! also rounds the activations to 8 bits at run time, which is not done here: a network that computes with `W` is closer
//! to the original.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::{Node, OnnxError, OnnxFile};

/// The constant factor of a product.
#[derive(Clone, Copy, Debug)]
enum Constant<'a> {
    /// Name of an initializer of floats.
    Floats(&'a str),
    /// An integer product, and the name of the initializer that scales its columns, if the graph has that form.
    Quantised { product: &'a Node, scale: Option<&'a str> },
}

/// For each named bias, the constants whose products are added to it.
#[derive(Debug)]
pub struct Products<'a> {
    onnx: &'a OnnxFile,
    of_bias: HashMap<&'a str, Vec<Constant<'a>>>,
}

impl<'a> Products<'a> {
    /// The products on the graph of `onnx`.
    pub fn of(onnx: &'a OnnxFile) -> Self {
        let with_output = |node: &'a Node| node.outputs.iter().map(move |output| (output.as_str(), node));
        let nodes: HashMap<&str, &Node> = onnx.nodes().iter().flat_map(with_output).collect();
        let mut of_bias: HashMap<&str, Vec<Constant>> = HashMap::new();
        for (bias, other) in onnx.nodes().iter().filter(|node| node.op_type == "Add").flat_map(either_way) {
            if onnx.has(bias)
                && let Some(constant) = nodes.get(other).and_then(|node| constant_of(onnx, &nodes, node))
            {
                of_bias.entry(bias).or_default().push(constant);
            }
        }
        Self { onnx, of_bias }
    }

    /// The weight of the layer with the bias `bias`, `(d_out, d_in)`, f32.
    ///
    /// # Errors
    /// No product or several are added to the bias, the constant has another shape, or a quantised one has no scale per
    /// column or a zero point other than 0.
    pub fn weight(&self, bias: &str, d_in: i64, d_out: i64) -> Result<Tensor, OnnxError> {
        let weight = match self.of_bias.get(bias).map_or(&[][..], Vec::as_slice) {
            [Constant::Floats(name)] => self.onnx.tensor(name, &[d_in, d_out])?,
            [Constant::Quantised { product, scale }] => self.dequantised(product, *scale, d_in, d_out)?,
            others => {
                let (path, bias) = (self.onnx.path().to_owned(), bias.to_owned());
                return Err(OnnxError::Product { path, bias, found: others.len() });
            }
        };
        Ok(weight.transpose(0, 1).contiguous())
    }

    /// `Q ⊙ s`, `(d_in, d_out)`, f32.
    fn dequantised(&self, product: &Node, scale: Option<&str>, d_in: i64, d_out: i64) -> Result<Tensor, OnnxError> {
        let wrong = |problem: String| {
            let (path, node) = (self.onnx.path().to_owned(), product.name.clone());
            Err(OnnxError::Quantised { path, node, problem })
        };
        let Some(scale) = scale else {
            return wrong("expected its product to be multiplied by one constant scale per column".to_owned());
        };
        if let Some(name) = product.inputs.get(3).filter(|name| !name.is_empty()) {
            let zero_points = self.onnx.int8s(name)?;
            if let Some(column) = zero_points.iter().position(|zero_point| *zero_point != 0) {
                let found = zero_points[column];
                return wrong(format!("zero point `{name}`, column {column}: expected 0, found {found}"));
            }
        }
        let scale = self.onnx.tensor(scale, &[d_out])?;
        Ok(self.onnx.int8_tensor(&product.inputs[1], &[d_in, d_out])?.to_kind(Kind::Float) * scale)
    }
}

/// Both orders of the two inputs of a node: `Add` and `Mul` commute, and exporters write either.
fn either_way(node: &Node) -> Vec<(&str, &str)> {
    match &node.inputs[..] {
        [a, b] => vec![(a, b), (b, a)],
        _ => Vec::new(),
    }
}

/// The constant factor of the product that `node` computes, if it computes one.
fn constant_of<'a>(onnx: &'a OnnxFile, nodes: &HashMap<&str, &'a Node>, node: &'a Node) -> Option<Constant<'a>> {
    let second = |node: &'a Node| node.inputs.get(1).map(String::as_str).filter(|name| onnx.has(name));
    match node.op_type.as_str() {
        "MatMul" => second(node).map(Constant::Floats),
        "Mul" => either_way(node).into_iter().find_map(|(cast, scales)| {
            let cast = nodes.get(cast).filter(|node| node.op_type == "Cast")?;
            let product = *nodes.get(cast.inputs.first()?.as_str()).filter(|node| node.op_type == "MatMulInteger")?;
            second(product)?;
            let scales = nodes.get(scales).filter(|node| node.op_type == "Mul").map(|node| either_way(node));
            let scale = scales.into_iter().flatten().map(|(scale, _)| scale).find(|name| onnx.has(name));
            Some(Constant::Quantised { product, scale })
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::test_graph::TestGraph;
    use super::*;

    fn weight(graph: &TestGraph, bias: &str) -> Result<Tensor, OnnxError> {
        let onnx = OnnxFile::parse(graph.file(), Path::new("net.onnx")).expect("well formed");
        Products::of(&onnx).weight(bias, 2, 3)
    }

    fn quantised(zero_point: i32) -> TestGraph {
        let mut graph = TestGraph::default();
        graph.quantised("fc1", &[1, -2, 3, 4, 5, -128], &[0.5, 2.0, 0.25], zero_point, &[0.0; 3]);
        graph
    }

    #[test]
    fn weights_of_both_forms_are_found_by_the_bias_that_their_product_is_added_to() {
        let mut graph = quantised(0);
        graph.floats("W", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        graph.floats("fc2.bias", &[3], &[0.0; 3]);
        graph.node("MatMul", &["y", "W"], "product");
        graph.node("Add", &["product", "fc2.bias"], "sum");
        let expected = |values: &[f32]| Tensor::from_slice(values).view([3, 2]);
        assert_eq!(weight(&graph, "fc1.bias").expect("it is there"), expected(&[0.5, 2.0, -4.0, 10.0, 0.75, -32.0]));
        assert_eq!(weight(&graph, "fc2.bias").expect("it is there"), expected(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    }

    #[test]
    fn products_of_another_form_are_refused_with_the_node_or_the_bias() {
        let message = |graph: &TestGraph, bias: &str| weight(graph, bias).expect_err("refused").to_string();
        assert_eq!(
            message(&quantised(7), "fc1.bias"),
            "net.onnx: node `fc1/product`: zero point `fc1/zero`, column 2: expected 0, found 7"
        );
        assert!(message(&quantised(300), "fc1.bias").contains("`fc1/zero` of shape [3] needs 3 bytes"), "not an int8");
        let mut graph = quantised(0);
        graph.rename("fc1/scale", "elsewhere");
        let error = message(&graph, "fc1.bias");
        assert!(error.starts_with("net.onnx: node `fc1/product`: expected its product to be multiplied by"), "{error}");
        let mut graph = quantised(0);
        graph.rename("fc1.bias", "fc9.bias");
        for bias in ["fc1.bias", "fc9.bias"] {
            assert!(
                message(&graph, bias).contains(&format!("is added to `{bias}`, found 0")),
                "the node names neither"
            );
        }
        let mut graph = quantised(0);
        graph.node("Add", &["fc1/scaled", "fc1.bias"], "again");
        assert!(message(&graph, "fc1.bias").contains("found 2"));
    }
}
