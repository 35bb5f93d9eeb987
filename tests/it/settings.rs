//! `agiqa features`, `agiqa methods`, and `--set` on single commands.

use super::testdir::TestDir;

/// A folder `images` with one picture.
fn dir() -> TestDir {
    let dir = TestDir::new();
    let picture =
        image::RgbImage::from_fn(224, 224, |x, y| image::Rgb([(x * y % 251) as u8, (x * 7 % 256) as u8, y as u8]));
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).expect("a picture can be encoded");
    dir.write("images/a.png", png.into_inner());
    dir
}

#[test]
fn features_takes_every_extractor_and_its_older_names_are_hidden() {
    let dir = dir();
    let args = ["features", "--extractor", "nss", "--images", "images", "--store", "store"];
    dir.agiqa(&args).exits(0).says("1 of 1 images have features");
    let help = dir.agiqa(&["--help"]).exits(0).prints("features");
    assert!(!help.stdout.contains("embed") && !help.stdout.contains("extract "), "{}", help.stdout);
    dir.agiqa(&["embed", "--help"]).exits(0);
}

#[test]
fn set_gives_a_setting_of_one_command_another_value() {
    let dir = dir();
    let features = |set: &str| {
        dir.agiqa(&["features", "--extractor", "nss", "--images", "images", "--store", "store", "--set", set])
    };
    features("side=200").exits(0).says("1 of 1 images lack features");
    features("side=200").exits(0).says("skipped");
    features("sied=200").exits(2).says("--set sied=200: unknown key `sied` in `extractor.nss`; did you mean `side`?");
    features("side=wide").exits(2).says("--set side=wide: `extractor.nss.side`: expected");
    let evaluate = ["evaluate", "--run", "r", "--store", "store", "--set", "bootstrap.resample=3"];
    dir.agiqa(&evaluate).exits(2).says("--set bootstrap.resample=3: unknown key `resample` in `bootstrap`");
    let split = ["split", "--dataset", "images", "--store", "store", "--set", "kind=by-colour"];
    dir.agiqa(&split).exits(2).says("by-colour");
    let predict = ["predict", "--run", "r", "--store", "store", "--set", "als=[\"other\"]"];
    dir.agiqa(&predict).exits(2).says("did you mean `also`?");
}

#[test]
fn help_prints_the_settings_own_defaults() {
    let dir = TestDir::new();
    let help = |command: &str| dir.agiqa(&[command, "--help"]).exits(0);
    let defaults = serde_json::to_value(agiqa::train::TrainSettings::default()).expect("plain data");
    let rate = format!("Learning rate [default: {}]", defaults["learning_rate"]);
    help("train").prints(&rate).prints("[default: f_1,f_a,f_b]").prints("[default: auto]");
    help("baseline").prints("Methods, separated by commas [default: brisque,niqe,ilniqe]");
    let part_rows = agiqa::features::CommonSettings::default().part_rows;
    help("features").prints(&format!("Number of rows at which a part is written [default: {part_rows}]"));
}

#[test]
fn methods_are_printed_as_the_docs_have_them() {
    let dir = TestDir::new();
    let printed = dir.agiqa(&["methods", "--format", "markdown"]).exits(0).stdout;
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/networks.md");
    let docs = std::fs::read_to_string(docs).expect("a file of ours");
    assert!(docs.contains(printed.trim_end()), "docs/networks.md lacks:\n{printed}");
    for name in ["dinov2-s14", "maniqa", "mplug-owl2", "nss", "brisque", "niqe", "ilniqe"] {
        dir.agiqa(&["methods"]).exits(0).prints(name);
    }
}
