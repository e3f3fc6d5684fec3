//! Connections that are there before a request wants one.

use std::sync::Arc;

use super::client::Client;
use crate::Error;

/// The connections of an endpoint of which some are kept open whether somebody asks or not.
pub(crate) struct Kept(Arc<Client>);

impl Kept {
    /// `None` if none are kept.
    pub(super) fn of(client: Arc<Client>) -> Option<Self> {
        client.pool.keeps_some().then_some(Self(client))
    }

    /// Waits until fewer are open than are to be kept.
    ///
    /// For one who waits at a time. Cancel safe: dropped before it is over, it misses nothing.
    pub(crate) async fn missing(&self) {
        self.0.pool.missing().await;
    }

    /// Makes those that are missing, one after the other, until one cannot be made.
    pub(crate) async fn fill(&self) -> Result<(), Error> {
        while let Some(place) = self.0.pool.place_to_keep() {
            let conn = self.0.open().await?;
            place.fill(conn).give_back();
        }
        Ok(())
    }
}
