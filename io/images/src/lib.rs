//! sealane-images
