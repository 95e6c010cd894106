export default (event, ctx) => ({ event, session: ctx.session ?? null, requestId: ctx.requestId });
