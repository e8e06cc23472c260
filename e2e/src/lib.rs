//! Tests with real processes: the `claygate` binary, its embedded Postgres, and everything that can end them.
//!
//! The tests are in `tests/it`; there is nothing else here. They run the binaries of the folder that
//! `CLAYGATE_TEST_BIN_DIR` names (`cargo xtask test` builds them and sets it), else of the folder above the tests' own.
