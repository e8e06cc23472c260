//! JSON pointers (RFC 6901) into an object.

use serde_json::{Map, Value};

/// The value that `pointer` names. The empty pointer, which means the whole document, names nothing here.
pub(crate) fn lookup<'a>(object: &'a Map<String, Value>, pointer: &str) -> Option<&'a Value> {
    let (first, below) = split_first(pointer)?;
    object.get(&first)?.pointer(below)
}

/// The key of the object's own member, and the pointer into that member.
pub(crate) fn split_first(pointer: &str) -> Option<(String, &str)> {
    let rest = pointer.strip_prefix('/')?;
    let (first, below) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    Some((unescape(first), below))
}

/// The key of a pointer that names a member of the object itself.
pub(crate) fn top_level_key(pointer: &str) -> Option<String> {
    let key = pointer.strip_prefix('/')?;
    (!key.contains('/')).then(|| unescape(key))
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_follow_rfc_6901() {
        let body = json!({"a": {"b": [10, {"c": 20}]}, "Work Email": 1, "x/y": 2, "m~n": 3, "": 4, "~1": 5});
        let Value::Object(object) = &body else { return };
        for (pointer, expected) in [
            ("/a/b/0", Some(json!(10))),
            ("/a/b/1/c", Some(json!(20))),
            ("/a/b/2", None),
            ("/a/b/-", None),
            ("/Work Email", Some(json!(1))),
            ("/x~1y", Some(json!(2))),
            ("/m~0n", Some(json!(3))),
            ("/", Some(json!(4))),
            ("/~01", Some(json!(5))),
            ("", None),
            ("a", None),
            ("/gone/b", None),
        ] {
            assert_eq!(lookup(object, pointer), expected.as_ref(), "{pointer}");
        }
    }

    #[test]
    fn only_one_token_is_at_the_top() {
        assert_eq!(top_level_key("/x~1y").as_deref(), Some("x/y"));
        assert_eq!(top_level_key("/a/b"), None);
        assert_eq!(top_level_key("a"), None);
    }
}
