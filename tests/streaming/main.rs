//! Layers that a container runtime mounts instead of unpacking them (promise P34).

mod off;
