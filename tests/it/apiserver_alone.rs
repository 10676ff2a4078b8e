//! The double of the API server by itself, without Egret: what the other tests stand on is tried here, against the words of a real server
//! and with kube's own client.
//!
//! Deliberately absent: anything of Egret's own.

mod replay;
