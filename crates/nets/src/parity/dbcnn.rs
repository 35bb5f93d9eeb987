//! DBCNN against pyiqa's and the authors' code, which agree.

use agiqa_synth::shared;
use tch::Tensor;

use super::{Watched, compare_summary, compare_whole, fixture_image, json, network, tensors, weights_of};
use crate::checkpoint::Checkpoint;
use crate::raters::dbcnn::Dbcnn;
use crate::raters::{Prepared, Rater};

/// Differences of stages and scores from float64, as parts of the maximum.
const STAGES: f64 = 1e-5;
const SCORES: f64 = 5e-6;

#[test]
fn every_stage_and_score_agrees_with_pyiqas() {
    let (Some(folder), Some(_)) = (shared("parity/dbcnn"), shared("datasets/agiqa-3k/images")) else { return };
    let expected = json(&folder.join("expected.json"));
    let whole = tensors(&folder.join("expected.safetensors"));
    let _no_grad = tch::no_grad_guard();
    let dbcnn: Dbcnn = network(&weights_of(&json(&folder.join("config.json"))), None);
    for (i, (name, case)) in expected["images"].as_object().expect("cases").iter().enumerate() {
        let image = fixture_image(&folder, name);
        let Prepared { values: pixels, shape } = dbcnn.preprocessor().prepare(&image).expect("it fits");
        let pixels = Tensor::from_slice(&pixels).view(shape.as_slice()).unsqueeze(0);
        let mut watched = Watched::default();
        let score = dbcnn.forward(&pixels, &mut watched.watch());
        compare_summary(name, &pixels, &case["stages"]["normalized"], STAGES);
        for (stage, expected) in case["stages"].as_object().expect("stages") {
            let found = match stage.as_str() {
                "normalized" => continue,
                "score" => {
                    compare_summary(name, &score, expected, SCORES);
                    continue;
                }
                "vgg.conv1" | "vgg.conv2" => format!("relu{}_2", &stage[8..]),
                "vgg.conv3" | "vgg.conv4" | "vgg.conv5" => format!("relu{}_3", &stage[8..]),
                _ => stage.clone(),
            };
            watched.compare_summary(&found, expected, STAGES);
            if let Some(expected) = whole.get(&format!("img{i}.{stage}")) {
                compare_whole(stage, &watched.0[&found], expected, STAGES);
            }
        }
    }
}

#[test]
fn samples_of_the_published_files_hold_the_rule_s_values() {
    let Some(folder) = shared("parity/dbcnn") else { return };
    let weights = weights_of(&json(&folder.join("config.json")));
    for (file, prefix, n_expected) in [("pyiqa_layout.pth", "params.", 10), ("authors_layout_legacy.pkl", "module.", 9)]
    {
        let checkpoint = Checkpoint::open(&folder.join("samples").join(file)).expect("a checkpoint");
        let names: Vec<&str> = checkpoint.names().collect();
        assert_eq!(names.len(), n_expected, "{file}: {names:?}");
        for name in names {
            let own = name.strip_prefix(prefix).expect("all names have the prefix");
            let Some(expected) = weights.get(own) else { continue };
            assert_eq!(checkpoint.tensor(name, &expected.size()).expect("it is there"), *expected, "{file}: {name}");
        }
    }
}
