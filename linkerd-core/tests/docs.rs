//! Every configuration that the documentation shows can be used. What a `client` holds is marked `yaml client`, other
//! parts of a file are marked `text`. What is a namerd's is marked `yaml namerd`: it may leave out `storage` and `interfaces`.
#![cfg(feature = "config")]

use std::{env, fs, path::Path};

use linkerd_core::{
    config::{Config, check_supported},
    telemetry::Registry,
};

/// The repository, which has more documents than this crate's package.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder")
}

/// A fenced block of code: what stands behind the fence, the line of its first line, and its text.
struct Block {
    lang: String,
    line: usize,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (i, line) in document.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        match (&mut open, trimmed.strip_prefix("```")) {
            (None, Some(lang)) => {
                open = Some((indent, Block { lang: lang.trim().to_owned(), line: i + 2, text: String::new() }));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), _) => {
                // A block in a list is indented as a whole.
                block.text.extend([line.get(*indent..).unwrap_or(trimmed), "\n"]);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

impl Block {
    /// The configuration that it shows, and whether all of it is.
    fn configuration(&self) -> Option<(String, bool)> {
        match self.lang.as_str() {
            // Settings of namerctl, which its own tests read.
            "yaml" if self.text.starts_with("base-url:") => None,
            "yaml" => Some((self.text.clone(), true)),
            "yaml client" => {
                let mut text = "routers:\n- protocol: http\n  servers: [{port: 0}]\n  client:\n".to_owned();
                for line in self.text.lines() {
                    text.extend(["    ", line, "\n"]);
                }
                Some((text, false))
            }
            _ => None,
        }
    }
}

/// Makes what a configuration names, below the working directory.
fn make_files(text: &str) {
    // In maps that stand in one line, too.
    for line in text.split(['\n', '{', ',', '}']) {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim_start_matches([' ', '-']) {
            "rootDir" => fs::create_dir_all(value).unwrap(),
            "dtabFile" => fs::write(value, "").unwrap(),
            "tokenFile" => fs::write(value, "s3cret\n").unwrap(),
            "certPath" | "intermediateCertsPath" | "caCertPath" | "trustCertsBundle" => copy("sec1.pem", value),
            "keyPath" => copy("sec1.key", value),
            _ => {}
        }
    }
}

/// Puts one of the certificates and keys of the tests where a configuration wants it.
fn copy(name: &str, to: &str) {
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/data").join(name), to).unwrap();
}

#[tokio::test]
async fn every_yaml_block_of_the_documentation_is_a_configuration() {
    let mut documents: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)).into();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    documents.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let folder = tempfile::tempdir().unwrap();
    // Relative names are relative to the working directory. No other test of this binary looks at it.
    env::set_current_dir(folder.path()).unwrap();

    let mut found = 0;
    for document in documents {
        if document.ends_with("tls.md") && !cfg!(any(feature = "ring", feature = "aws-lc-rs")) {
            continue;
        }
        let text = fs::read_to_string(&document).unwrap();
        let name = document.strip_prefix(root()).unwrap().display();
        for block in blocks(&text) {
            let Some((text, whole)) = block.configuration() else { continue };
            found += 1;
            make_files(&text);
            let place = format!("{name}, line {}", block.line);
            let config = Config::parse("block.yaml", &text).unwrap_or_else(|errors| panic!("{place}:\n{errors}"));
            // A page that lists keys shows also those that are not built yet, and says so.
            if !whole && !check_supported(&config).is_empty() {
                continue;
            }
            let built = config.build(&Registry::new());
            assert!(built.is_ok(), "{place}:\n{}", built.err().map(|errors| errors.to_string()).unwrap_or_default());
        }
    }
    assert!(found > 0, "the README shows one at least");
    #[cfg(all(feature = "namerd", any(feature = "ring", feature = "aws-lc-rs")))]
    assert!(namerds(&fs::read_to_string(root().join("docs/namerd.md")).unwrap()) > 10);
}

/// Builds every configuration of a namerd that a document shows, and says how many there are.
#[cfg(all(feature = "namerd", any(feature = "ring", feature = "aws-lc-rs")))]
fn namerds(document: &str) -> usize {
    let mut found = 0;
    for Block { lang, line, mut text } in blocks(document) {
        let is_built = match lang.as_str() {
            "yaml namerd" => true,
            "yaml namerd k8s" => cfg!(feature = "k8s"),
            _ => continue,
        };
        found += 1;
        for (key, default) in
            [("storage:", "storage: {kind: io.l5d.inMemory}\n"), ("interfaces:", "interfaces: [{kind: io.l5d.mesh}]\n")]
        {
            if !text.lines().any(|line| line.starts_with(key)) {
                text.push_str(default);
            }
        }
        make_files(&text);
        let config = linkerd_core::config::namerd::Namerd::parse("block.yaml", &text);
        let config = config.unwrap_or_else(|errors| panic!("docs/namerd.md, line {line}:\n{errors}"));
        let host = linkerd_core::namerd::Host::builder(&config).build();
        let errors = host.err().map(|errors| errors.to_string()).unwrap_or_default();
        assert!(errors.is_empty() == is_built, "docs/namerd.md, line {line}:\n{errors}");
    }
    found
}

#[test]
fn blocks_are_found_where_they_are() {
    let found = blocks("a\n```yaml\nb: 1\n\nc: 2\n```\n- d\n\n  ```text\n  e\n    f\n  ```\n");
    assert!(found[0].configuration().is_some_and(|(text, whole)| text == found[0].text && whole));
    assert!(found[1].configuration().is_none());
    let found: Vec<_> = found.iter().map(|block| (block.lang.as_str(), block.line, block.text.as_str())).collect();
    assert_eq!(found, [("yaml", 3, "b: 1\n\nc: 2\n"), ("text", 10, "e\n  f\n")]);
}
