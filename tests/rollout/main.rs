//! What an operator installs: the chart with its values, its plain manifests, and the policies that it renders.
//!
//! helm, kubectl and kubernetes-validate are the real ones; scripts/test installs them.

mod admission;
mod chart;
mod documents;
mod helm;
mod hooks;
mod install;
mod layers;
mod mounts;
mod node_labels;
mod policies;
mod values;
