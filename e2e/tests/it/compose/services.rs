//! The services as Compose would start them: from `init` to a callback that reaches its destination.
