//! spool_files
