//! The pod lifecycle: observe → decide → act. (being written)
