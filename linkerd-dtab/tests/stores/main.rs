//! One suite for all stores, over servers in memory that can fail in any way, and over real ones where they are installed.
#![cfg(all(feature = "files", feature = "etcd", feature = "consul", feature = "zookeeper"))]

mod consul;
mod doubt;
mod etcd;
mod fake;
mod files;
#[cfg(feature = "k8s")]
mod k8s;
mod memory;
mod real;
mod suite;
mod zookeeper;

/// The whole suite for one kind of store. `paused` is whether the clock may run ahead when nobody has anything to do, as it
/// may where there are neither files nor sockets.
macro_rules! conforms {
    (paused = $paused:literal, $rig:expr, $($test:ident)*) => {
        $(
            #[tokio::test(start_paused = $paused)]
            async fn $test() {
                crate::suite::$test(&$rig).await;
            }
        )*
    };
    (paused = $paused:literal, $rig:expr) => {
        crate::conforms! {
            paused = $paused, $rig,
            a_table_is_created_changed_and_deleted
            changes_are_made_only_to_what_is_expected
            of_two_writers_one_succeeds
            no_update_is_lost
            who_writes_reads_it_at_once
            changes_of_others_are_seen
            names_with_slashes_and_dots_are_kept_apart
            a_table_is_kept_as_namerd_writes_it
            a_table_that_could_not_be_read_is_not_written
            a_small_share_is_kept
            what_is_no_table_leaves_the_last_good_one
            a_store_that_is_away_at_the_start_is_found_later
            what_was_read_outlives_every_fault
            a_watch_outlives_the_store_value
        }
    };
}
pub(crate) use conforms;
