use super::*;
use crate::store::contract::Fixture;
use crate::store::contract::state::state_contract;

struct Files(tempfile::TempDir);

impl Fixture for Files {
    type Store = SqliteState;

    async fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> SqliteState {
        SqliteState::open(&self.0.path().join("state.db")).unwrap()
    }
}

state_contract!(Files);
