//! The WAL archive: files in, durable before they are acknowledged; files out, whole or not at all;
//! and what there is.

pub mod archive;
pub mod arrival;
pub mod fetch;
pub mod inventory;
pub mod receive;
pub mod shipment;
