//! The fuzz target's corpus, as a test: what was once found stays found without the fuzzer.

mod check;

#[test]
fn the_corpus_holds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/parse");
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        check::check(&seed);
        // Cut and doubled seeds, too: the fuzzer's first moves.
        for end in 0..seed.len() {
            check::check(&seed[..end]);
        }
        check::check(&seed.repeat(2));
        seeds += 1;
    }
    assert!(seeds > 20, "{seeds} seeds in {}", folder.display());
}
