//! Names of images that nearly match a file.

use super::*;

/// Ingests a table of `names` from a folder `all/pics` with `files`; `images` is the folder given.
fn ingested(files: &[&str], images: &str, names: &[&str]) -> (TestDir, Ran) {
    let dir = TestDir::new();
    for (seed, file) in files.iter().enumerate() {
        dir.write(&format!("all/pics/{file}"), picture(seed as u8, ImageFormat::Png));
    }
    let here = dir.path().join("all/pics").canonicalize().expect("a folder").to_str().expect("UTF-8").to_owned();
    let rows: Vec<String> = names.iter().map(|name| format!("\"{}\",1\n", name.replace("HERE", &here))).collect();
    dir.write("t.csv", format!("name,mos\n{}", rows.concat()));
    let args: Vec<&str> = GENERIC.iter().map(|arg| if *arg == "img" { images } else { arg }).chain(["t.csv"]).collect();
    let ran = dir.agiqa(&args);
    (dir, ran)
}

#[test]
fn backslashes_separate_folders_and_absolute_paths_below_the_folder_are_names() {
    let (_, ran) = ingested(&["a.png", "b.png"], "all", &["pics\\a.png", ".\\pics\\b.png"]);
    ran.exits(0).says("2 images");
    let (dir, ran) = ingested(&["a.png", "b.png"], "all/pics", &["file://HERE/a.png", "b.png"]);
    ran.exits(0).says("2 images");
    assert_eq!(written(&dir).0.rows[1].name, "b.png");
    let (dir, ran) = ingested(&["a.png"], "all/pics", &["/etc/hostname", "HERE/../../t.csv", "..\\..\\t.csv"]);
    ran.exits(1).says("3 rejected (3 escapes-folder)");
    assert!(written(&dir).1[0].message.contains("is an absolute path outside of the image folder"));
}

#[test]
fn a_file_of_the_very_name_is_taken_as_it_stands() {
    let (_, ran) = ingested(&["back\\slash.png", " lead.png"], "all/pics", &["back\\slash.png", " lead.png"]);
    ran.exits(0).says("2 images");
}

#[test]
fn a_name_may_begin_with_the_image_folders_own_last_folders() {
    for names in [["pics/a.png", "all/pics/b.png"], ["pics\\a.png", "all\\pics\\b.png"]] {
        let (_, ran) = ingested(&["a.png", "b.png"], "all/pics", &names);
        ran.exits(0).says("2 images");
    }
    let (dir, ran) = ingested(&["a.png", "pics/a.png"], "all/pics", &["pics/a.png", "pics/pics/a.png"]);
    ran.exits(1).says("1 images, 1 rejected (1 duplicate-name)");
    assert!(written(&dir).0.rows[0].path.ends_with("all/pics/pics/a.png"), "a file of the very name comes first");
}

#[test]
fn what_all_missing_names_share_is_said_with_an_example() {
    for (files, images, names, words) in [
        (["a.png", "b.png"], "all/pics", ["A.PNG", "B.PNG"], "upper and lower case: `A.PNG` is there as `a.png`"),
        (["e\u{301}.png", "b\u{308}.png"], "all/pics", ["\u{e9}.png", "b\u{308}.png"], "the folder holds"),
        (["a.png", "b.png"], "all/pics", ["other/a.png", "other/b.png"], "folders before the name"),
        (["a.png", "b.png"], "all/pics", ["/home/x/a.png", "/home/x/b.png"], "folders before the name"),
        (["a.png", "b.png"], "all/pics", ["C:\\data\\a.png", "C:\\data\\b.png"], "folders before the name"),
        (["a.png", "b.png"], "all", ["a.png", "b.png"], "a missing folder; give `--images` the folder"),
        (["a.png", "b.png"], "all/pics", ["a", "b"], "the missing extension: `a` is there as `a.png`"),
        (["a.png", "b.png"], "all/pics", ["a.jpg", "b.jpg"], "the extension: `a.jpg` is there as `a.png`"),
    ] {
        let (dir, ran) = ingested(&files, images, &names);
        ran.exits(1).says(words);
        assert!(written(&dir).1[0].message.contains("; the folder holds `"), "{names:?}");
    }
    let (_, ran) = ingested(&["img_00.png", "b.png"], "all/pics", &["img_0O.png", "b.png"]);
    ran.exits(1).says("; the folder holds `img_00.png`");
}
