//! What an event costs as more and more spans are open under one key: counted by the calls that it takes to find its
//! start, not by time.
