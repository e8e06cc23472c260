//! What rules can do with numbers beyond CEL: `number(x)`, and arithmetic between int and double.
//!
//! A lead's score is an int where it is whole and a double where not. CEL compares the two but does not calculate with
//! both, so `lead.icp_score - 10` would fail on one lead in ten. Compiled expressions therefore call the functions below
//! for `+ - * /`; they turn an int into a double where the other side is one, and otherwise do what CEL does.

use cel::common::types::{
    CelDouble, CelInt, CelString, CelUInt, DOUBLE_TYPE, DYN_TYPE, INT_TYPE, STRING_TYPE, UINT_TYPE,
};
use cel::common::value::CowVal;
use cel::{DeclarationError, Env, ExecutionError};

use crate::lead::number::parse_number;

type Evaluated<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Operator = for<'b, 'v> fn(Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v>;

/// CEL's operator, and the function that stands for it; no expression can write that name.
pub(super) const OPERATORS: [(&str, &str, Operator); 4] =
    [("_+_", "@add", add), ("_-_", "@subtract", subtract), ("_*_", "@multiply", multiply), ("_/_", "@divide", divide)];

/// Adds the functions to an environment.
///
/// # Errors
/// [`DeclarationError`] where one of the names is taken.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    for (_, name, function) in OPERATORS {
        env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function)?;
    }
    for kind in [STRING_TYPE, INT_TYPE, UINT_TYPE, DOUBLE_TYPE] {
        let id = format!("number_{}", kind.name());
        env.add_overload("number", &id, vec![kind], number)?;
    }
    Ok(())
}

/// `number(x)`: numbers as they are, strings as [`parse_number`] reads them, whole ones as int.
fn number<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v> {
    let argument = arguments.into_iter().next().ok_or_else(ExecutionError::missing_argument_or_target)?;
    let Some(text) = argument.downcast_ref::<CelString<'_>>() else { return Ok(argument) };
    let number = parse_number(text.inner()).ok_or_else(|| ExecutionError::function_error("number", "not a number"))?;
    Ok(match to_int(number) {
        Some(whole) => CowVal::owned(CelInt::from(whole)),
        None => CowVal::owned(CelDouble::from(number)),
    })
}

fn to_int(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

fn add<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v> {
    let (left, right) = pair(arguments)?;
    let operator = left.as_adder().ok_or_else(|| no_overload("_+_", &left, &right))?;
    Ok(CowVal::Owned(operator.add(right.as_ref())?.into_owned()))
}

fn subtract<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v> {
    let (left, right) = pair(arguments)?;
    let operator = left.as_subtractor().ok_or_else(|| no_overload("_-_", &left, &right))?;
    Ok(CowVal::Owned(operator.sub(right.as_ref())?.into_owned()))
}

fn multiply<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v> {
    let (left, right) = pair(arguments)?;
    let operator = left.as_multiplier().ok_or_else(|| no_overload("_*_", &left, &right))?;
    Ok(CowVal::Owned(operator.mul(right.as_ref())?.into_owned()))
}

fn divide<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Evaluated<'b, 'v> {
    let (left, right) = pair(arguments)?;
    let operator = left.as_divider().ok_or_else(|| no_overload("_/_", &left, &right))?;
    Ok(CowVal::Owned(operator.div(right.as_ref())?.into_owned()))
}

/// Both operands, as doubles where one is and the other is a number too.
fn pair<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<(CowVal<'b, 'v>, CowVal<'b, 'v>), ExecutionError> {
    let [left, right] = <[CowVal<'b, 'v>; 2]>::try_from(arguments)
        .map_err(|arguments| ExecutionError::invalid_argument_count(2, arguments.len()))?;
    let is_double = |value: &CowVal<'_, '_>| value.downcast_ref::<CelDouble>().is_some();
    Ok(match (is_double(&left), is_double(&right)) {
        (true, false) => (left, widen(right)),
        (false, true) => (widen(left), right),
        _ => (left, right),
    })
}

fn widen<'b, 'v>(value: CowVal<'b, 'v>) -> CowVal<'b, 'v> {
    let number = match (value.downcast_ref::<CelInt>(), value.downcast_ref::<CelUInt>()) {
        (Some(number), _) => *number.inner() as f64,
        (_, Some(number)) => *number.inner() as f64,
        _ => return value,
    };
    CowVal::owned(CelDouble::from(number))
}

fn no_overload(operator: &str, left: &CowVal<'_, '_>, right: &CowVal<'_, '_>) -> ExecutionError {
    let name = |value: &CowVal<'_, '_>| value.get_type().name().to_owned();
    ExecutionError::no_such_overload(operator, vec![name(left), name(right)])
}
