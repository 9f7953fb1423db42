//! The manager: Control API, dispatcher, CA, writer.
