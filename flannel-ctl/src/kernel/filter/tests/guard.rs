//! Only peers may inject.
