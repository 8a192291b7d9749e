//! Image names: the grammar that container registries share, normalised as other runtimes do it.

use std::fmt;

/// A normalised image name: always with a registry, always with a tag or a digest.
///
/// A name with both keeps only the digest: the tag says nothing more then, and Podman 4 refuses both together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: String,
    suffix: Suffix,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Suffix {
    Tag(String),
    Digest(String),
}

/// The name does not follow the grammar. The words are those of the kubelet's own parser.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {image:?}: {problem}")]
pub struct InvalidReference {
    image: String,
    problem: String,
}

impl Reference {
    /// Reads and normalises a name: `busybox` is `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    /// When it does not follow the grammar.
    pub fn parse(image: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem: String| InvalidReference { image: image.to_owned(), problem };
        let bad_format = || invalid("invalid reference format".to_owned());
        if image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid(format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings")));
        }
        let (domain, remainder) = split_domain(image);
        let (named, digest) = match remainder.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(invalid(format!("invalid reference format: repository name ({path}) must be lowercase")));
        }
        if !is_domain(&domain) || !path.split('/').all(is_path_component) {
            return Err(bad_format());
        }
        if !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
            return Err(bad_format());
        }
        let repository = format!("{domain}/{path}");
        if repository.len() > 255 {
            return Err(invalid("repository name must not be more than 255 characters".to_owned()));
        }
        let suffix = match (digest, tag) {
            (Some(digest), _) => Suffix::Digest(digest.to_owned()),
            (None, Some(tag)) => Suffix::Tag(tag.to_owned()),
            (None, None) => Suffix::Tag("latest".to_owned()),
        };
        Ok(Self { repository, suffix })
    }

    /// Registry and path, like `docker.io/library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry's host, with its port.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }

    /// The digest, if the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        match &self.suffix {
            Suffix::Digest(digest) => Some(digest),
            Suffix::Tag(_) => None,
        }
    }

    /// The name says `latest`, or nothing at all: an image to look for each time.
    #[must_use]
    pub fn is_latest(&self) -> bool {
        matches!(&self.suffix, Suffix::Tag(tag) if tag == "latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suffix {
            Suffix::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Suffix::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

/// The registry, and the rest. A first part is a registry when it looks like a host: with a dot, a port, or upper case,
/// or `localhost`; everything else is on Docker Hub.
fn split_domain(image: &str) -> (String, String) {
    let hub = |rest: &str| ("docker.io".to_owned(), rest.to_owned());
    let (domain, rest) = match image.split_once('/') {
        None => hub(&format!("library/{image}")),
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) => {
            (first.to_owned(), rest.to_owned())
        }
        Some(_) => hub(image),
    };
    if domain == "index.docker.io" || domain == "docker.io" {
        if rest.contains('/') {
            return hub(&rest);
        }
        return hub(&format!("library/{rest}"));
    }
    (domain, rest)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let ok = |b: u8| b.is_ascii_hexdigit() || b == b':';
        return port_ok && !address.is_empty() && address.bytes().all(ok);
    }
    port_ok
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Lower-case words and digits, separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(is_word) && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "8d61842785e852374d6d632cc17c19721d22348a0202836ae0c6ca582bae7b55";

    #[test]
    fn names_are_normalised() {
        for (image, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.37", "docker.io/library/busybox:1.37"),
            ("library/busybox", "docker.io/library/busybox:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
            ("10.0.0.1:5000/a", "10.0.0.1:5000/a:latest"),
            ("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest"),
            ("r.io/a-b__c.d/e---f:V1_2.x", "r.io/a-b__c.d/e---f:V1_2.x"),
            ("Host/a", "Host/a:latest"),
        ] {
            assert_eq!(Reference::parse(image).unwrap().to_string(), want, "{image}");
        }
        let digest = Reference::parse(&format!("r.io/a:1@sha256:{HEX}")).unwrap();
        assert_eq!(digest.to_string(), format!("r.io/a@sha256:{HEX}"));
        assert_eq!((digest.repository(), digest.registry()), ("r.io/a", "r.io"));
        assert!(!digest.is_latest());
        assert!(Reference::parse("a").unwrap().is_latest());
        assert!(!Reference::parse("a:1").unwrap().is_latest());
    }

    #[test]
    fn bad_names_are_refused_in_the_kubelets_words() {
        for (image, problem) in [
            ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
            ("INVALID$$IMAGE", "invalid reference format: repository name (library/INVALID$$IMAGE) must be lowercase"),
            ("", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("r.io:x/a", "invalid reference format"),
            ("../../etc", "invalid reference format"),
            ("http://r.io/a", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
        ] {
            let error = Reference::parse(image).unwrap_err().to_string();
            assert_eq!(error, format!("couldn't parse image name {image:?}: {problem}"));
        }
        assert!(Reference::parse(HEX).unwrap_err().to_string().contains("64-byte hexadecimal"));
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert!(Reference::parse(&format!("a:{}", "b".repeat(129))).is_err());
    }
}
