use std::fs::{self, OpenOptions};
use std::io::Write;

use super::super::line::Stream;
use super::*;
use tempfile::TempDir;

struct Log {
    dir: TempDir,
}

impl Log {
    fn new(contents: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.log"), contents).unwrap();
        Self { dir }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }
    fn append(&self, contents: &[u8]) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path()).unwrap();
        file.write_all(contents).unwrap();
    }
    fn open(&self, options: LogOptions) -> LogReader {
        LogReader::open(&self.path(), options).unwrap()
    }
    /// Everything, as a request without `follow` gets it.
    fn read(&self, options: LogOptions) -> String {
        let mut reader = self.open(options);
        let mut out = drain(&mut reader);
        out.extend(reader.finish());
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn drain(reader: &mut LogReader) -> Vec<u8> {
    let mut out = Vec::new();
    while let Step::Data(data) = reader.step().unwrap() {
        out.extend(data);
    }
    out
}

fn at(second: u32) -> String {
    format!("2026-01-01T00:00:{second:02}.5+00:00")
}

/// Five lines, one of them in two parts, alternating streams.
fn sample() -> Log {
    let mut text = String::new();
    for second in 0..4 {
        let stream = ["stdout", "stderr"][second as usize % 2];
        text += &format!("{} {stream} F line {second}\n", at(second));
    }
    text += &format!("{} stdout P half \n{} stdout F whole\n", at(10), at(10));
    Log::new(text.as_bytes())
}

fn options() -> LogOptions {
    LogOptions::default()
}

#[test]
fn all_lines_with_partial_ones_joined() {
    assert_eq!(sample().read(options()), "line 0\nline 1\nline 2\nline 3\nhalf whole\n");
}

#[test]
fn timestamps_stand_once_before_a_joined_line() {
    let text = sample().read(LogOptions { timestamps: true, ..options() });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "2026-01-01T00:00:00.500000000Z line 0");
    assert_eq!(lines[4], "2026-01-01T00:00:10.500000000Z half whole");
}

#[test]
fn since_leaves_out_older_lines() {
    let since = |text: &str| LogOptions { since: Some(text.parse().unwrap()), ..options() };
    let log = sample();
    assert_eq!(log.read(since("2026-01-01T00:00:02.5Z")), "line 2\nline 3\nhalf whole\n");
    assert_eq!(log.read(since("2027-01-01T00:00:00Z")), "");
}

#[test]
fn one_stream_only() {
    let text = sample().read(LogOptions { stream: Some(Stream::Stderr), ..options() });
    assert_eq!(text, "line 1\nline 3\n");
}

#[test]
fn tail_counts_lines_of_the_file_as_the_kubelet_does() {
    let tail = |n| sample().read(LogOptions { tail_lines: Some(n), ..options() });
    assert_eq!(tail(0), "");
    assert_eq!(tail(1), "whole\n");
    assert_eq!(tail(3), "line 3\nhalf whole\n");
    assert_eq!(tail(6), tail(100));
    assert!(tail(100).starts_with("line 0\n"));
}

#[test]
fn limit_bytes_cuts_in_the_middle_and_counts_timestamps() {
    let limit = |n, timestamps| sample().read(LogOptions { limit_bytes: Some(n), timestamps, ..options() });
    assert_eq!(limit(1, false), "l");
    assert_eq!(limit(9, false), "line 0\nli");
    assert_eq!(limit(5, true), "2026-");
    assert_eq!(limit(1000, false).len(), sample().read(options()).len());
}

#[test]
fn a_limit_on_one_stream_does_not_count_the_other() {
    let text = sample().read(LogOptions { limit_bytes: Some(9), stream: Some(Stream::Stderr), ..options() });
    assert_eq!(text, "line 1\nli");
}

#[test]
fn tail_of_a_large_file_reads_only_its_end() {
    let mut text = String::new();
    for n in 0..200_000 {
        text += &format!("{} stdout F {n:060}\n", at(n % 60));
    }
    let log = Log::new(text.as_bytes());
    let mut reader = log.open(LogOptions { tail_lines: Some(1000), ..options() });
    let start = reader.file.stream_position().unwrap();
    assert!(start > text.len() as u64 - 100_000);
    let out = drain(&mut reader);
    assert!(out.starts_with(format!("{:060}\n", 199_000).as_bytes()));
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1000);
}

#[test]
fn lines_longer_than_a_chunk_are_whole_and_odd_bytes_pass() {
    let mut text = format!("{} stdout F ", at(0)).into_bytes();
    text.extend(std::iter::repeat_n(0xffu8, 3 * CHUNK));
    text.extend(b"\n");
    let log = Log::new(&text);
    let mut reader = log.open(options());
    let out = drain(&mut reader);
    assert_eq!(out.len(), 3 * CHUNK + 1);
    assert!(out[..3 * CHUNK].iter().all(|b| *b == 0xff));
}

#[test]
fn malformed_and_endless_lines_are_skipped() {
    let mut text = vec![b'x'; 2 * LONGEST_LINE];
    text.extend(format!("\nnonsense\n{} stdout F good\n", at(0)).bytes());
    let log = Log::new(&text);
    let mut reader = log.open(options());
    let mut longest = 0;
    let mut out = Vec::new();
    while let Step::Data(data) = reader.step().unwrap() {
        longest = longest.max(reader.pending.len());
        out.extend(data);
    }
    assert_eq!(out, b"good\n");
    assert!(longest <= LONGEST_LINE, "held {longest} bytes");
}

#[test]
fn an_unfinished_line_waits_for_its_end_or_is_sent_at_the_end() {
    let log = Log::new(format!("{} stdout F be", at(0)).as_bytes());
    let mut reader = log.open(LogOptions { follow: true, ..options() });
    assert_eq!(drain(&mut reader), b"");
    log.append(b"gun\n");
    assert_eq!(drain(&mut reader), b"begun\n");
    log.append(format!("{} stdout F cut", at(0)).as_bytes());
    assert_eq!(drain(&mut reader), b"");
    assert_eq!(reader.finish(), b"cut");
}

#[test]
fn following_goes_on_through_a_rotation() {
    let log = Log::new(format!("{} stdout F one\n", at(0)).as_bytes());
    let mut reader = log.open(LogOptions { follow: true, tail_lines: Some(1), ..options() });
    assert_eq!(drain(&mut reader), b"one\n");
    assert!(!reader.follow_rotation().unwrap());

    let rotated = log.dir.path().join("0.log.20260101-000000");
    fs::rename(log.path(), &rotated).unwrap();
    assert!(!reader.follow_rotation().unwrap(), "no new file yet");
    log.append(format!("{} stdout F three\n", at(2)).as_bytes());
    let mut old = OpenOptions::new().append(true).open(&rotated).unwrap();
    old.write_all(format!("{} stdout F two\n", at(1)).as_bytes()).unwrap();
    assert!(reader.follow_rotation().unwrap());
    assert_eq!(drain(&mut reader), b"two\n");
    assert!(reader.follow_rotation().unwrap());
    assert_eq!(drain(&mut reader), b"three\n");
    assert!(!reader.follow_rotation().unwrap());
}

#[test]
fn following_goes_on_after_the_file_is_cut() {
    let log = Log::new(format!("{} stdout F a long line\n", at(0)).as_bytes());
    let mut reader = log.open(LogOptions { follow: true, ..options() });
    drain(&mut reader);
    fs::write(log.path(), format!("{} stdout F b\n", at(0))).unwrap();
    assert!(reader.follow_rotation().unwrap());
    assert_eq!(drain(&mut reader), b"b\n");
}

/// A slow client: the log was rotated twice while it read.
#[test]
fn following_reads_what_was_put_aside_meanwhile() {
    let mut second = 0;
    let mut line = |text: &str| {
        second += 1;
        format!("{} stdout F {text}\n", at(second))
    };
    let log = Log::new(line("first").as_bytes());
    let mut rotate = |day: u32, next: &str| {
        fs::rename(log.path(), log.dir.path().join(format!("0.log.2026010{day}-000000"))).unwrap();
        fs::write(log.path(), line(next)).unwrap();
    };
    rotate(1, "second");
    let mut reader = log.open(LogOptions { follow: true, ..options() });
    rotate(2, "third");
    rotate(3, "fourth");
    // The oldest are compressed when the next is put aside.
    fs::rename(log.dir.path().join("0.log.20260101-000000"), log.dir.path().join("0.log.20260101-000000.gz")).unwrap();
    fs::remove_file(log.dir.path().join("0.log.20260102-000000")).unwrap();
    let mut out = drain(&mut reader);
    while reader.follow_rotation().unwrap() {
        out.extend(drain(&mut reader));
    }
    assert_eq!(String::from_utf8(out).unwrap(), "second\nthird\nfourth\n");
}

/// A client so slow that what it has not read yet is compressed, the file that it reads among it.
#[test]
fn following_reads_what_was_compressed_meanwhile() {
    let line = |second: u8, text: &str| format!("{} stdout F {text}\n", at(second.into()));
    let log = Log::new(line(1, "first").as_bytes());
    let mut reader = log.open(LogOptions { follow: true, ..options() });
    for (day, next) in [(1, "second"), (2, "third"), (3, "fourth")] {
        let aside = log.dir.path().join(format!("0.log.2026010{day}-000000"));
        fs::rename(log.path(), &aside).unwrap();
        fs::write(log.path(), line(day + 1, next)).unwrap();
        if day < 3 {
            let mut packed = flate2::write::GzEncoder::new(
                fs::File::create(aside.with_extension(format!("2026010{day}-000000.gz"))).unwrap(),
                flate2::Compression::fast(),
            );
            std::io::Write::write_all(&mut packed, &fs::read(&aside).unwrap()).unwrap();
            packed.finish().unwrap();
            fs::remove_file(&aside).unwrap();
        }
    }
    let mut out = drain(&mut reader);
    while reader.follow_rotation().unwrap() {
        out.extend(drain(&mut reader));
    }
    assert_eq!(String::from_utf8(out).unwrap(), "first\nsecond\nthird\nfourth\n");
    assert_eq!(fs::read_dir(log.dir.path()).unwrap().count(), 4, "unpacked files have no name");
}

#[test]
fn between_the_steps_of_a_rotation_the_old_file_is_read() {
    let log = sample();
    let whole = log.read(options());
    fs::write(log.dir.path().join("0.log.20250101-000000"), "").unwrap();
    fs::rename(log.path(), log.dir.path().join("0.log.20260101-000000")).unwrap();
    assert_eq!(log.read(options()), whole);
    let mut reader = log.open(LogOptions { follow: true, ..options() });
    assert_eq!(String::from_utf8(drain(&mut reader)).unwrap(), whole);
    fs::write(log.path(), format!("{} stdout F new\n", at(20))).unwrap();
    assert!(reader.follow_rotation().unwrap());
    assert_eq!(drain(&mut reader), b"new\n");
    assert!(!reader.follow_rotation().unwrap());
}
