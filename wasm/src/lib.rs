//! The guest of rapsqlite: SQLite and a query engine as one WASI module, driven through two rings.

pub mod abi;
