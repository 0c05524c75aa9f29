//! A broker as a client sees it: over loopback, with a controller that decides as the real one does but alone.

mod node;
mod page_cache;
mod solo;

mod cases;
mod cold_readers;
