//! Guards against absurd numbers: an error with the limit.

use crate::baseline::{params, picture};
use crate::testdir::TestDir;

fn with_a_picture() -> TestDir {
    let dir = TestDir::new();
    dir.write("images/x.png", picture(0, 120, 120));
    dir
}

const NSS: [&str; 7] = ["features", "--extractor", "nss", "--images", "images", "--store", "store"];

#[test]
fn absurd_numbers_are_refused_with_the_limit() {
    let dir = with_a_picture();
    dir.agiqa(&["schemas", "--threads", "99999999"])
        .exits(2)
        .says("`--threads 99999999`: expected 1 to 1024; this machine has ");
    dir.agiqa(&["schemas", "--threads", "1024"]).exits(0);
    let features = |more: [&str; 2]| dir.agiqa(&[&NSS[..], &more].concat());
    features(["--batch-size", "5000"]).exits(2).says("`batch_size = 5000`: expected 1 to 4096");
    features(["--part-rows", "99999999999"]).exits(2).says("`part_rows = 99999999999`: expected 1 to 1000000");
    features(["--set", "part_rows=2000000"]).exits(2).says("`part_rows = 2000000`: expected 1 to 1000000");
    let params = params().display().to_string();
    let baseline =
        ["baseline", "--params", &params, "--images", "images", "--store", "store", "--part-rows", "1000001"];
    dir.agiqa(&baseline).exits(2).says("`part_rows = 1000001`: expected 1 to 1000000");
}
