//! Files and folders below the log folder, as Go's file server shows them.
//!
//! A link may lead to another place below the log folder (`containers/` is full of such), never out of it: pods can write links
//! there where the folder is mounted into them, and the agent may read everything.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use http::header::{CONTENT_TYPE, LAST_MODIFIED, LOCATION};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::pipe;
use crate::server::response::{self, Response};

/// Bytes by which a file is told to be text.
const HEAD: u64 = 512;
/// Entries of a folder that are shown; a page ends with an ellipsis where there are more.
const MAX_ENTRIES: usize = 20_000;
/// What a link in a page must not contain as it is.
const IN_LINK: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}').add(b'\'').add(b'&');

/// What a path names.
enum Found {
    /// At its beginning.
    File {
        file: File,
        length: u64,
        modified: Option<SystemTime>,
    },
    Folder(Vec<String>),
}

/// A file for reading, and nothing else.
pub(super) fn open_file(root: &Path, path: &str) -> io::Result<(File, u64)> {
    match find(root, path)? {
        Found::File { file, length, .. } => Ok((file, length)),
        Found::Folder(_) => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Opens what `path` leads to, without leaving `root`. What it is must be looked at before it is read.
fn open(root: &Path, path: &str) -> io::Result<File> {
    let root = root.canonicalize()?;
    let mut wanted = root.clone();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => wanted.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::NotFound.into()),
        }
    }
    // Where it leads now …
    let real = wanted.canonicalize()?;
    let below = real.strip_prefix(&root).map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    // … and no link on the way there, should one have been put there since.
    let folder = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(&folder, below, flags, Mode::empty(), resolve)?.into())
}

fn find(root: &Path, path: &str) -> io::Result<Found> {
    let file = open(root, path)?;
    let meta = file.metadata()?;
    if meta.is_file() {
        return Ok(Found::File { length: meta.len(), modified: meta.modified().ok(), file });
    }
    if !meta.is_dir() {
        // A pipe or a device is not read.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&file)?.take(MAX_ENTRIES) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let folder = entry.file_type().is_dir();
        names.push(if folder { name + "/" } else { name });
    }
    names.sort();
    if names.len() >= MAX_ENTRIES - 2 {
        names.push("…".to_owned());
    }
    Ok(Found::Folder(names))
}

/// The answer for a path: a file, a folder's list, or what `refusal` makes of why not.
pub(super) async fn serve(root: PathBuf, path: String, as_folder: bool, refusal: impl FnOnce(&io::Error) -> Response) -> Response {
    // Without a name it is the folder of them all, under the name that it has here.
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("logs").to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let mut head = Vec::new();
        let mut found = find(&root, &path)?;
        if let Found::File { file, .. } = &mut found {
            file.take(HEAD).read_to_end(&mut head)?;
        }
        Ok::<_, io::Error>((found, head))
    });
    match looked.await {
        Ok(Ok((Found::File { file, length, modified }, head))) => send(head, file, length, modified),
        // Links in the page are relative to the folder.
        Ok(Ok((Found::Folder(_), _))) if !as_folder => redirect(&name),
        Ok(Ok((Found::Folder(names), _))) => response::html(page(&names)),
        Ok(Err(error)) => refusal(&error),
        Err(_) => response::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    }
}

/// As Go's file server says it.
pub(super) fn refusal(error: &io::Error) -> Response {
    // ELOOP: a link that was put there between two looks.
    let link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    let (status, text) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => (StatusCode::NOT_FOUND, "404 page not found\n"),
        kind if link || kind == io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "403 Forbidden\n"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
    };
    response::text(status, text)
}

fn redirect(name: &str) -> Response {
    let answer = response::text(StatusCode::MOVED_PERMANENTLY, "");
    response::with_header(answer, LOCATION, &format!("{}/", link(name)))
}

/// A name as a link to what lies beside.
fn link(name: &str) -> String {
    // A name with a colon would look like a scheme.
    let here = if name.split('/').next().is_some_and(|first| first.contains(':')) { "./" } else { "" };
    format!("{here}{}", utf8_percent_encode(name, IN_LINK))
}

fn page(names: &[String]) -> String {
    let mut page = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let text = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;");
        page.push_str(&format!("<a href=\"{}\">{text}</a>\n", link(name)));
    }
    page.push_str("</pre>\n");
    page
}

/// The file as long as it is now: a log that grows faster than it is read would never end. `head` has been read already.
fn send(head: Vec<u8>, file: File, length: u64, modified: Option<SystemTime>) -> Response {
    let content_type = if looks_like_text(&head) { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    let (client, body) = mpsc::channel(1);
    let rest = tokio::fs::File::from_std(file).take(length.saturating_sub(head.len() as u64));
    tokio::spawn(async move { pipe(AsyncReadExt::chain(head.as_slice(), rest), &client).await });
    let mut answer = response::stream(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    match modified.and_then(|time| jiff::Timestamp::try_from(time).ok()) {
        Some(time) => response::with_header(answer, LAST_MODIFIED, &time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        None => answer,
    }
}

/// Whether the beginning of a file is text, as sniffers see it: no control characters but those of text.
fn looks_like_text(head: &[u8]) -> bool {
    !head.iter().any(|byte| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("pods/a.log"), "a").unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink("..", root.join("folder")).unwrap();
        symlink(root.join("pods/a.log"), root.join("inside")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in ["absolute", "relative", "folder/secret", "folder", "../secret", "pods/../../secret", "pipe"] {
            assert!(find(&root, path).is_err(), "{path}");
        }
        for path in ["inside", "pods/a.log", "/pods//a.log", "./pods/a.log"] {
            assert!(matches!(find(&root, path), Ok(Found::File { length: 1, .. })), "{path}");
        }
        let Ok(Found::Folder(names)) = find(&root, "") else { panic!("the folder itself") };
        assert_eq!(names, ["absolute", "folder", "inside", "pipe", "pods/", "relative"]);
    }

    #[test]
    fn names_are_escaped() {
        let page = page(&["a<b>.log".to_owned(), "d e/".to_owned(), "x:y".to_owned(), "\"'&".to_owned()]);
        for part in [
            r#"<a href="a%3Cb%3E.log">a&lt;b&gt;.log</a>"#,
            r#"<a href="d%20e/">d e/</a>"#,
            r#"<a href="./x:y">x:y</a>"#,
            r#"<a href="%22%27%26">&#34;&#39;&amp;</a>"#,
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
