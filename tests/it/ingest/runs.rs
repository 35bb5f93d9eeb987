//! Invocations: what is skipped, what is recorded, what interrupts them, and several at once.

use super::*;

#[test]
fn an_unchanged_dataset_is_skipped_and_any_change_is_noticed() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,2\nlater.png,3\n");
    ingest(&dir, "t.csv", &[]).exits(1).says("ingest d: not ingested yet").says("2 images, 1 rejected");
    ingest(&dir, "t.csv", &[]).exits(1).says("ingest d: skipped: nothing changed: 2 images, 1 rejected");
    ingest(&dir, "t.csv", &["--force"]).exits(1).says("asked for explicitly");
    dir.write("img/later.png", picture(7, ImageFormat::Png));
    ingest(&dir, "t.csv", &[]).exits(0).says("image files changed").says("3 images");
    assert!(written(&dir).1.is_empty(), "the rejects are those of the last ingest");
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,2\n");
    ingest(&dir, "t.csv", &[]).exits(0).says("the MOS table changed").says("2 images");
    ingest(&dir, "t.csv", &["--max-pixels", "100"]).exits(1).says("the settings changed").says("2 too-large");
    ingest(&dir, "t.csv", &[]).exits(0).says("the settings changed");
    let part = dir.path().join("store/images/dataset=d/part-0.parquet");
    let bytes = std::fs::read(&part).expect("the part");
    std::fs::write(&part, &bytes[..bytes.len() / 2]).expect("writable");
    ingest(&dir, "t.csv", &[]).exits(0).says("the `images` table cannot be read").says("2 images");
    ingest(&dir, "t.csv", &[]).exits(0).says("skipped");
}

#[test]
fn rows_keep_the_order_of_the_table_whatever_the_number_of_threads() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\nc.webp,1\na.png,1\nb.jpg,2\n");
    for threads in ["1", "3"] {
        ingest(&dir, "t.csv", &["--force", "--threads", threads]).exits(0);
        let names: Vec<String> = written(&dir).0.rows.into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["c.webp", "a.png", "b.jpg"]);
    }
}

#[test]
fn two_ingests_into_one_store_at_once_both_arrive() {
    let dir = TestDir::new();
    let mut table = "name,mos\n".to_owned();
    for seed in 0..40 {
        dir.write(&format!("img/{seed}.png"), picture(seed, ImageFormat::Png));
        table.push_str(&format!("{seed}.png,1\n"));
    }
    dir.write("t.csv", table);
    let start = |name: &str, adapter_args: &[&str]| {
        let args = [&GENERIC[..], &["t.csv"], adapter_args].concat();
        let args: Vec<&str> = args.into_iter().map(|arg| if arg == "d" { name } else { arg }).collect();
        dir.command(&args).stderr(std::process::Stdio::null()).spawn().expect("agiqa can be started")
    };
    let running = [start("d", &[]), start("e", &[]), start("d", &["--force"]), start("d", &["--force"])];
    for mut child in running {
        assert_eq!(child.wait().expect("a child of this process").code(), Some(0));
    }
    let store = dir.store();
    for name in ["d", "e"] {
        assert_eq!(images::read(&store, &dataset(name)).expect("readable").rows.len(), 40, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("store/runs")).expect("records").count(), 4);
}

#[test]
fn what_was_done_is_recorded_with_balanced_counts() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,9\n");
    let ran = ingest(&dir, "t.csv", &["--json"]).exits(1).prints("\"type\":\"stage\"");
    let event: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().expect("an event")).expect("JSON");
    let rows = serde_json::json!({"n_in": 2, "n_out": 1, "n_cached": 0, "n_rejected": 1, "n_left": 0});
    assert_eq!(event["rows"], rows);
    let runs = std::fs::read_dir(dir.path().join("store/runs")).expect("records");
    let record = runs.flatten().next().expect("one record").path();
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).expect("readable")).expect("JSON");
    assert_eq!((&record["exit_code"], &record["stages"][0]["rows"]), (&serde_json::json!(1), &rows));
}

#[test]
fn a_store_that_cannot_be_a_folder_is_an_error() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    dir.write("store", "a file");
    ingest(&dir, "t.csv", &[]).exits(2).says("cannot open store folder `store`");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_asks_for_a_retry() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    std::fs::create_dir(dir.path().join("small")).expect("a folder");
    // A file system of 64 KiB that only this command sees, and that another file fills.
    let script = "mount -t tmpfs -o size=64k none small || exit 99; head -c 65536 /dev/zero > small/fill; exec \"$@\"";
    let args: Vec<&str> = GENERIC.iter().copied().chain(["t.csv"]).collect();
    let args = args.into_iter().map(|arg| if arg == "store" { "small/store" } else { arg });
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_agiqa")])
        .args(args)
        .current_dir(dir.path())
        .output();
    let output = match output {
        Ok(output) if !matches!(output.status.code(), Some(99)) && !stderr_of(&output).contains("unshare") => output,
        _ => {
            println!("skipped: this machine lets no one mount a small file system");
            return;
        }
    };
    assert_eq!(output.status.code(), Some(75), "{}", stderr_of(&output));
    assert!(stderr_of(&output).contains("No space left on device"), "{}", stderr_of(&output));
}

#[cfg(target_os = "linux")]
fn stderr_of(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends SIGINT to `child`, as Ctrl-C does.
#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a running child");
}

#[cfg(unix)]
#[test]
fn an_interrupted_ingest_exits_130_and_leaves_the_dataset_as_it_was() {
    use std::io::Write;
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    ingest(&dir, "t.csv", &[]).exits(0);
    // The table is a pipe: agiqa waits for its rows until the signal has arrived for certain.
    let pipe = dir.path().join("pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo exists").success());
    let args = [&GENERIC[..], &["pipe.csv", "--force"]].concat();
    let child = dir.command(&args).stderr(std::process::Stdio::piped()).spawn().expect("agiqa can be started");
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).expect("agiqa opens the other end");
    interrupt(&child);
    writer.write_all(b"name,mos\na.png,2\nb.jpg,2\n").expect("agiqa reads");
    drop(writer);
    let output = child.wait_with_output().expect("a child of this process");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted; the dataset is unchanged"), "{stderr}");
    let rows = written(&dir).0.rows;
    assert_eq!((rows.len(), rows[0].mos), (1, Some(1.0)));
}
